//! Devices as ranks of replicas: who may ask for one, and what becomes of those that come to nothing.

use mlxcel_node::{Node, RunningNode};
use mlxcel_protocol::v1::join_replica_request::Kind;
use mlxcel_protocol::v1::{
    Failure, FailureKind, JoinRank, JoinReplicaRequest, LoadModelRequest, LoadProgress, ReplicaEnd,
    ReplicaRank, ReplicaRoster, ReplicaStage, load_progress,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::support::{Bench, LONG, Router, until};

/// A router's conversation with a node about a rank.
struct Conversation {
    told: mpsc::Sender<JoinReplicaRequest>,
    progress: Streaming<LoadProgress>,
}

impl Conversation {
    async fn open(router: &mut Router, first: Kind) -> Self {
        let (told, requests) = mpsc::channel(4);
        told.send(JoinReplicaRequest { kind: Some(first) }).await.expect("there is room");
        let opened = router.client.join_replica(ReceiverStream::new(requests)).await;
        Self { told, progress: opened.expect("admitted").into_inner() }
    }

    async fn tell(&self, kind: Kind) {
        self.told.send(JoinReplicaRequest { kind: Some(kind) }).await.expect("there is room");
    }

    /// Where the rank listens, or why there is none.
    async fn listening(&mut self) -> Result<ReplicaEnd, Failure> {
        loop {
            let said = timeout(LONG, self.progress.message()).await.expect("in time").expect("a stream");
            match said.expect("an end").kind.expect("a kind") {
                load_progress::Kind::Listening(end) => return Ok(end),
                load_progress::Kind::Failed(failure) => return Err(failure),
                load_progress::Kind::Step(_) => {}
                load_progress::Kind::Ready(state) => panic!("nothing was loaded: {state:?}"),
            }
        }
    }

    async fn refusal(&mut self) -> Failure {
        self.listening().await.expect_err("it cannot be a rank")
    }
}

/// Rank `rank` of two stages of one rank each.
fn part(bench: &Bench, rank: u32, device_index: u32) -> Kind {
    let stage = ReplicaStage { layers: 2, ranks: 1 };
    let rank = ReplicaRank {
        replica: "first".into(),
        rank,
        stages: vec![stage, stage],
        kv_blocks: 4,
        step_tokens: 32,
    };
    let model = bench.model("m.gguf");
    let model = LoadModelRequest { model, served_name: "m".into(), ..LoadModelRequest::default() };
    Kind::Rank(JoinRank { model: Some(model), device_index, rank: Some(rank) })
}

async fn bench() -> (Bench, RunningNode, Router) {
    let bench = Bench::new();
    let node = bench.start().await;
    let router = Router::claiming(&node).await;
    (bench, node, router)
}

/// Waits until the node's device holds so many models, or parts of some.
async fn holds(node: &RunningNode, count: usize) {
    until("the device's models", LONG, || node.state().workers[0].models.len() == count).await;
}

#[tokio::test]
async fn a_standalone_node_is_no_rank() {
    let bench = Bench::new();
    let mut options = bench.options();
    options.standalone = true;
    let node = Node::start(options).await.expect("node starts");
    let mut router = Router::claiming(&node).await;
    let failure = Conversation::open(&mut router, part(&bench, 0, 0)).await.refusal().await;
    assert_eq!(failure.kind(), FailureKind::InvalidRequest);
    assert!(failure.message.contains("standalone"), "{}", failure.message);
}

#[tokio::test]
async fn what_makes_no_rank_is_refused_by_name() {
    let (bench, _node, mut router) = bench().await;
    let cases = [
        (Kind::Roster(ReplicaRoster::default()), "naming model and rank first"),
        (part(&bench, 0, 7), "has 1 devices, device 7"),
        (part(&bench, 2, 0), "rank 2 of 2"),
    ];
    for (first, rule) in cases {
        let failure = Conversation::open(&mut router, first).await.refusal().await;
        assert_eq!(failure.kind(), FailureKind::InvalidRequest, "{rule}");
        assert!(failure.message.contains(rule), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_rank_that_is_told_of_strangers_only_refuses() {
    let (bench, node, mut router) = bench().await;
    let mut conversation = Conversation::open(&mut router, part(&bench, 0, 0)).await;
    let end = conversation.listening().await.expect("it listens");
    let other = ReplicaEnd { fingerprint: "0".repeat(64), ..end.clone() };
    conversation.tell(Kind::Roster(ReplicaRoster { ends: vec![other, end] })).await;
    let failure = conversation.refusal().await;
    assert!(failure.message.contains("not this rank's"), "{}", failure.message);
    holds(&node, 0).await;
}

#[tokio::test]
async fn a_rank_whose_caller_goes_away_is_given_up() {
    let (bench, node, mut router) = bench().await;
    let mut conversation = Conversation::open(&mut router, part(&bench, 1, 0)).await;
    conversation.listening().await.expect("it listens");
    holds(&node, 1).await;
    drop(conversation);
    holds(&node, 0).await;
    // The device is free for what comes next.
    router.load(&bench.model("other.gguf"), "other").await.expect("loads");
}
