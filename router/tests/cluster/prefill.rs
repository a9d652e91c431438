//! Prompts that another node computes than the one that answers.

use std::time::Duration;

use mlxcel_protocol::v1::move_prefix_event::Kind as Said;
use mlxcel_protocol::v1::move_prefix_request::Kind as Told;
use mlxcel_protocol::v1::{
    Failure, FailureKind, NodeState, PrefixTaken, PrefixTarget, PrefixWritten, Role, TransferEnd,
};
use serde_json::json;
use tokio::task::JoinHandle;

use super::client::Answer;
use super::node::{FakeNode, state};
use super::rig::Rig;

/// A router that has seen one node compute prompts slowly and another fast; the slow one's turn is next.
struct Pair {
    rig: Rig,
    slow: FakeNode,
    fast: FakeNode,
}

impl Pair {
    async fn start() -> Self {
        let able = || {
            let mut able: NodeState = state(&["m"]);
            able.node.as_mut().expect("a node").roles = vec![Role::Worker.into(), Role::Rank.into()];
            able
        };
        let (one, other) = (FakeNode::start(able(), None).await.0, FakeNode::start(able(), None).await.0);
        let rig = Rig::with(&[&one, &other]).await;
        let (mut nodes, mut first) = ([one, other], None);
        for prefill in [Duration::from_secs(4), Duration::from_millis(50)] {
            let answer = rig.chat(json!({}));
            let at = loop {
                if let Some(at) = nodes.iter_mut().position(FakeNode::is_asked) {
                    break at;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            first.get_or_insert(at);
            let asked = nodes[at].asked().await;
            asked.started().await;
            asked.delta("a").await;
            asked.finish_after_prefill(1000, prefill).await;
            let answer = answer.await.expect("an answer");
            assert!(answer.header("x-mlxcel-route").contains("prefill=local"));
        }
        let [one, other] = nodes;
        let (slow, fast) = if first == Some(0) { (one, other) } else { (other, one) };
        Self { rig, slow, fast }
    }

    /// A prompt of about two thousand tokens.
    fn ask(&self) -> JoinHandle<Answer> {
        self.rig.chat(json!({"messages": [{"role": "user", "content": "word ".repeat(1600)}]}))
    }

    async fn answered(&mut self, answer: JoinHandle<Answer>) -> String {
        self.slow.asked().await.answer(&["ok"]).await;
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status, 200);
        answer.header("x-mlxcel-route").to_owned()
    }
}

fn target(tokens: u32) -> PrefixTarget {
    let bytes = u64::from(tokens) * 46_080;
    PrefixTarget { tokens: (0..tokens).collect(), bytes, ..PrefixTarget::default() }
}

#[tokio::test]
async fn a_faster_node_computes_a_long_prompt_for_the_one_that_answers() {
    let mut pair = Pair::start().await;
    let answer = pair.ask();
    let mut sender = pair.fast.move_asked().await;
    let Told::Send(send) = sender.told().await else { panic!("it is the sender") };
    assert_eq!(send.model, "m");
    let end = TransferEnd { fingerprint: "f".into(), offer: b"o".to_vec() };
    sender.say(Said::End(end.clone())).await;
    let mut receiver = pair.slow.move_asked().await;
    let Told::Receive(receive) = receiver.told().await else { panic!("it is the receiver") };
    assert_eq!((receive.sender, receive.request.expect("a request").model), (Some(end), "m".to_owned()));
    receiver.say(Said::Target(target(1984))).await;
    assert_eq!(sender.told().await, Told::Target(target(1984)));
    assert!(!pair.slow.is_asked(), "not before its prompt is there");
    let written = PrefixWritten {
        batches: 60,
        bytes: 1984 * 46_080,
        bytes_while_computing: 1984 * 46_080,
        compute_micros: 99_000,
        rest_micros: 1000,
    };
    sender.say(Said::Written(written)).await;
    assert_eq!(receiver.told().await, Told::Written(written));
    receiver.say(Said::Taken(PrefixTaken { tokens: 1984, import_micros: 9 })).await;
    let route = pair.answered(answer).await;
    let expected = format!("node={}; prefill={}; ", &pair.slow.id[..8], &pair.fast.id[..8]);
    assert!(route.starts_with(&expected), "{route}");
    for part in ["moved_tokens=1984", "moved_bytes=91422720", "early=1.00", "local_ms=", "remote_ms="] {
        assert!(route.contains(part), "{route}");
    }
}

#[tokio::test]
async fn a_move_that_fails_costs_the_answer_nothing_and_is_not_tried_again_at_once() {
    let mut pair = Pair::start().await;
    let answer = pair.ask();
    let mut sender = pair.fast.move_asked().await;
    sender.say(Said::End(TransferEnd::default())).await;
    let mut receiver = pair.slow.move_asked().await;
    receiver.say(Said::Target(target(1984))).await;
    while !matches!(sender.told().await, Told::Target(_)) {}
    let failure = Failure { kind: FailureKind::WorkerLost.into(), message: "killed".into() };
    sender.say(Said::Failed(failure)).await;
    // The receiver is told that nothing will come.
    while !matches!(receiver.told().await, Told::Receive(_)) {}
    receiver.dropped().await;
    let route = pair.answered(answer).await;
    assert!(route.contains("prefill=local") && route.contains("failed_after_ms="), "{route}");
    // The other node's turn, then the slow one's again.
    let other = pair.rig.chat(json!({}));
    pair.fast.asked().await.answer(&["ok"]).await;
    other.await.expect("an answer");
    let again = pair.ask();
    let route = pair.answered(again).await;
    assert!(!pair.fast.is_move_asked(), "{route}");
}

#[tokio::test]
async fn a_sender_that_stands_still_is_given_up_when_the_receiver_says_so() {
    let mut pair = Pair::start().await;
    let answer = pair.ask();
    let sender = pair.fast.move_asked().await;
    sender.say(Said::End(TransferEnd::default())).await;
    let receiver = pair.slow.move_asked().await;
    receiver.say(Said::Target(target(1984))).await;
    let failure = Failure { kind: FailureKind::WorkerLost.into(), message: "silent".into() };
    receiver.say(Said::Failed(failure)).await;
    sender.dropped().await;
    assert!(pair.answered(answer).await.contains("failed_after_ms="));
}

#[tokio::test]
async fn what_the_answering_node_has_already_is_not_moved() {
    let mut pair = Pair::start().await;
    for (said, why) in [
        (Said::Taken(PrefixTaken::default()), "cached=all"),
        // Too few are missing.
        (Said::Target(PrefixTarget { first_block: 60, ..target(1984) }), "tokens=64"),
    ] {
        let answer = pair.ask();
        let sender = pair.fast.move_asked().await;
        sender.say(Said::End(TransferEnd::default())).await;
        pair.slow.move_asked().await.say(said).await;
        let route = pair.answered(answer).await;
        assert!(route.contains("prefill=local") && route.contains(why), "{route}");
        sender.dropped().await;
        let other = pair.rig.chat(json!({}));
        pair.fast.asked().await.answer(&["ok"]).await;
        other.await.expect("an answer");
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_while_its_prompt_is_computed_ends_that() {
    let mut pair = Pair::start().await;
    let answer = pair.ask();
    let sender = pair.fast.move_asked().await;
    sender.say(Said::End(TransferEnd::default())).await;
    let receiver = pair.slow.move_asked().await;
    answer.abort();
    sender.dropped().await;
    receiver.dropped().await;
    assert!(!pair.slow.is_asked());
    // Nothing counts the request any more.
    pair.rig
        .until(|health| {
            health["nodes"].as_array().is_some_and(|all| all.iter().all(|it| it["in_flight"] == 0))
        })
        .await;
}
