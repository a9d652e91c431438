//! Nodes that die, hang, refuse, and clients that go away.

use std::time::{Duration, Instant};

use mlxcel_protocol::v1::{FailureKind, FinishReason, WorkerHealth};
use serde_json::json;

use super::client::{self, Sent, content, error};
use super::node::{Asked, FakeNode};
use super::rig::Rig;

/// Two nodes, a router, and a request that has reached one of them: that one first.
async fn one_request(change: serde_json::Value) -> (Rig, FakeNode, FakeNode, Asked, Running) {
    let mut a = FakeNode::with(&["m"]).await;
    let mut b = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&a, &b]).await;
    let answer = rig.chat(change);
    let asked = tokio::select! {
        asked = a.asked() => asked,
        asked = b.asked() => {
            std::mem::swap(&mut a, &mut b);
            asked
        }
    };
    (rig, a, b, asked, answer)
}

type Running = tokio::task::JoinHandle<client::Answer>;

#[tokio::test]
async fn node_that_dies_before_the_first_token_costs_a_retry() {
    let (rig, mut first, mut second, asked, answer) = one_request(json!({"stream": true})).await;
    asked.started().await;
    first.kill().await;
    second.asked().await.answer(&["saved"]).await;
    let mut answer = answer.await.expect("sent");
    assert_eq!(answer.status, 200);
    let events = answer.events().await;
    assert_eq!(content(&events), "saved");
    assert_eq!(events.last(), Some(&Sent::Done));
    assert_eq!(rig.metric("mlxcel_retries_total").await, 1.0);
}

/// The tokens that a node is told to go on behind.
fn resumed(asked: &Asked) -> Vec<Vec<u32>> {
    asked.request.resumed.iter().map(|choice| choice.token_ids.clone()).collect()
}

#[tokio::test]
async fn answer_goes_on_where_its_node_died() {
    for stream in [true, false] {
        let (rig, mut first, mut second, asked, answer) = one_request(json!({"stream": stream})).await;
        assert_eq!(resumed(&asked), Vec::<Vec<u32>>::new());
        let seed = asked.request.sampling.as_ref().and_then(|sampling| sampling.seed);
        asked.delta("be").await;
        asked.delta("gun ").await;
        // Until the router has seen both.
        rig.until(|_| true).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        first.kill().await;
        let asked = second.asked().await;
        assert_eq!(resumed(&asked), [vec![7, 7]]);
        let again = asked.request.sampling.as_ref().and_then(|sampling| sampling.seed);
        assert!(seed.is_some() && seed == again, "{seed:?}, {again:?}");
        asked.answer(&["and ", "done"]).await;
        let mut answer = answer.await.expect("sent");
        let text = if stream {
            let events = answer.events().await;
            assert_eq!(events.last(), Some(&Sent::Done));
            content(&events)
        } else {
            let body = answer.json().await;
            body["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
        };
        assert_eq!(text, "begun and done");
        assert_eq!(rig.metric("mlxcel_resumes_total").await, 1.0);
        assert_eq!(rig.metric("mlxcel_streams_broken_total").await, 0.0);
    }
}

#[tokio::test]
async fn passing_failures_before_the_first_token_are_retried_elsewhere() {
    for kind in [
        FailureKind::Overloaded,
        FailureKind::Draining,
        FailureKind::WorkerLost,
        FailureKind::ModelNotFound,
        FailureKind::Internal,
    ] {
        let (_rig, _first, mut second, asked, answer) = one_request(json!({"stream": true})).await;
        asked.started().await;
        asked.fail(kind, "not now").await;
        second.asked().await.answer(&["ok"]).await;
        let events = answer.await.expect("sent").events().await;
        assert_eq!(content(&events), "ok", "{kind:?}");
    }
}

#[tokio::test]
async fn answer_goes_on_where_a_worker_crashed() {
    let (_rig, _first, mut second, asked, answer) = one_request(json!({"stream": true})).await;
    asked.delta("par").await;
    asked.fail(FailureKind::WorkerLost, "worker 0 was killed").await;
    let asked = second.asked().await;
    assert_eq!(resumed(&asked), [vec![7]]);
    asked.answer(&["t two"]).await;
    let events = answer.await.expect("sent").events().await;
    assert_eq!(content(&events), "part two");
}

#[tokio::test]
async fn invalid_request_is_refused_without_a_retry() {
    let (_rig, _first, mut second, asked, answer) = one_request(json!({"stream": true})).await;
    asked.fail(FailureKind::InvalidRequest, "prompt has 9 tokens, the context 8").await;
    let answer = answer.await.expect("sent");
    assert_eq!(answer.status, 400);
    let error = answer.json().await["error"].clone();
    assert_eq!(error["message"], "prompt has 9 tokens, the context 8");
    assert!(!second.is_asked());
}

#[tokio::test]
async fn lone_node_that_crashed_is_used_again_once_it_reports() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let answer = rig.chat(json!({}));
    let asked = node.asked().await;
    asked.fail(FailureKind::WorkerLost, "worker 0 was killed").await;
    node.asked().await.answer(&["again"]).await;
    let body = answer.await.expect("sent").json().await;
    assert_eq!(body["choices"][0]["message"]["content"], "again");
}

#[tokio::test]
async fn request_for_a_model_whose_worker_restarts_waits_for_it() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    node.now(|state| state.workers[0].health = WorkerHealth::Restarting.into());
    let health = rig.until(|h| h["status"] == "unavailable").await;
    assert_eq!(health["models"], json!([{"id": "m", "status": "away"}]));
    let mut answer = rig.chat(json!({}));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut answer).await;
    assert!(early.is_err(), "answered without a worker");
    node.now(|state| state.workers[0].health = WorkerHealth::Ready.into());
    node.asked().await.answer(&["ok"]).await;
    assert_eq!(answer.await.expect("sent").status, 200);
}

#[tokio::test]
async fn request_waits_for_a_lost_node_and_then_gives_up() {
    let mut node = FakeNode::with(&["m"]).await;
    let join = vec![node.address.to_string()];
    let rig = Rig::start(|options| {
        options.join = join;
        options.patience = Duration::from_millis(300);
    })
    .await;
    rig.until_connected(1).await;
    node.kill().await;
    rig.until_connected(0).await;
    let answer = rig.chat(json!({})).await.expect("sent");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.json().await["error"]["code"], "no_node");
}

#[tokio::test]
async fn node_that_hangs_is_lost_and_its_request_retried() {
    let (rig, first, mut second, asked, answer) = one_request(json!({"stream": true})).await;
    asked.started().await;
    first.hang();
    second.asked().await.answer(&["ok"]).await;
    assert_eq!(content(&answer.await.expect("sent").events().await), "ok");
    let health = rig.until(|h| h["nodes"].as_array().map(Vec::len) == Some(1)).await;
    assert_eq!(health["nodes"][0]["id"], second.id.as_str());
}

#[tokio::test]
async fn stream_leaves_a_node_that_hangs_and_late_tokens_are_not_told() {
    let (rig, mut first, mut second, asked, answer) = one_request(json!({"stream": true})).await;
    asked.started().await;
    asked.delta("one ").await;
    // Until the router has seen it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.hang();
    let hung = Instant::now();
    let again = second.asked().await;
    assert!(hung.elapsed() < Duration::from_secs(1), "{:?}", hung.elapsed());
    assert_eq!(resumed(&again), [vec![7]]);
    assert_eq!(first.cancelled().await, asked.request.request_id);
    first.go_on();
    asked.delta("two ").await;
    asked.finish(FinishReason::Stop, 2).await;
    again.answer(&["two"]).await;
    let events = answer.await.expect("sent").events().await;
    assert_eq!(content(&events), "one two");
    assert_eq!(events.last(), Some(&Sent::Done));
    assert_eq!(rig.metric("mlxcel_moves_total").await, 1.0);
    // It was never lost, and is used again.
    let health =
        rig.until(|h| h["nodes"].as_array().is_some_and(|it| it.iter().all(|n| n["stalled"] == false)));
    assert_eq!(health.await["nodes"].as_array().map(Vec::len), Some(2));
    let (_a, _b) = (rig.chat(json!({})), rig.chat(json!({})));
    first.asked().await.answer(&["ok"]).await;
}

#[tokio::test]
async fn stream_leaves_a_worker_that_its_node_calls_stalled() {
    let (_rig, first, mut second, asked, answer) = one_request(json!({"stream": true})).await;
    asked.started().await;
    asked.delta("one ").await;
    first.now(|state| state.workers[0].stalled = true);
    let again = second.asked().await;
    assert_eq!(resumed(&again), [vec![7]]);
    again.answer(&["two"]).await;
    assert_eq!(content(&answer.await.expect("sent").events().await), "one two");
}

#[tokio::test]
async fn stream_of_a_node_that_lives_is_waited_for() {
    let (_rig, first, mut second, asked, answer) = one_request(json!({"stream": true})).await;
    first.now(|state| state.workers[0].models[0].running = 1);
    asked.started().await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(!second.is_asked(), "a long prompt is no hang");
    asked.delta("at last").await;
    asked.finish(FinishReason::Stop, 1).await;
    assert_eq!(content(&answer.await.expect("sent").events().await), "at last");
}

#[tokio::test]
async fn client_that_leaves_before_the_first_token_cancels_within_100_ms() {
    let (_rig, mut first, _second, asked, answer) = one_request(json!({"stream": true})).await;
    asked.started().await;
    answer.abort();
    assert!(answer.await.is_err());
    let left = Instant::now();
    asked.dropped().await;
    assert_eq!(first.cancelled().await, asked.request.request_id);
    assert!(left.elapsed() < Duration::from_millis(100), "{:?}", left.elapsed());
}

#[tokio::test]
async fn client_that_leaves_mid_stream_cancels_within_100_ms() {
    let (rig, mut first, _second, asked, answer) = one_request(json!({"stream": true})).await;
    asked.delta("x").await;
    let mut answer = answer.await.expect("sent");
    answer.chunk().await;
    drop(answer);
    let left = Instant::now();
    asked.dropped().await;
    assert_eq!(first.cancelled().await, asked.request.request_id);
    assert!(left.elapsed() < Duration::from_millis(100), "{:?}", left.elapsed());
    rig.until(|h| h["nodes"].as_array().is_some_and(|n| n.iter().all(|n| n["in_flight"] == 0))).await;
}

#[tokio::test]
async fn client_of_a_whole_answer_that_leaves_cancels() {
    let (_rig, mut first, _second, asked, answer) = one_request(json!({})).await;
    asked.delta("x").await;
    answer.abort();
    assert!(answer.await.is_err());
    asked.dropped().await;
    assert_eq!(first.cancelled().await, asked.request.request_id);
}

/// Eight streams on two nodes; one node dies while half of its streams have begun.
#[tokio::test]
async fn eight_streams_survive_the_death_of_one_of_two_nodes() {
    let mut dying = FakeNode::with(&["m"]).await;
    let mut staying = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&dying, &staying]).await;
    let answers: Vec<Running> = (0..8).map(|_| rig.chat(json!({"stream": true}))).collect();
    let mut on_dying = Vec::new();
    let mut on_staying = Vec::new();
    for _ in 0..4 {
        on_dying.push(dying.asked().await);
        on_staying.push(staying.asked().await);
    }
    for begun in on_dying.iter().take(2).chain(&on_staying) {
        begun.delta("begun ").await;
    }
    for waiting in &on_dying[2..] {
        waiting.started().await;
    }
    // The begun ones must have been shown to their clients.
    rig.until(|h| h["nodes"].as_array().map(Vec::len) == Some(2)).await;
    let mut seen = 0;
    let mut streams = Vec::new();
    let mut waiting = Vec::new();
    for answer in answers {
        match tokio::time::timeout(Duration::from_millis(200), answer_of(answer)).await {
            Ok(Ok(stream)) => {
                seen += 1;
                streams.push(stream);
            }
            Ok(Err(answer)) => waiting.push(answer),
            Err(_) => unreachable!("answer_of has its own limit"),
        }
    }
    assert_eq!(seen, 6, "streams that have begun");
    dying.kill().await;
    for survivor in &on_staying {
        survivor.delta("and done").await;
        survivor.finish(FinishReason::Stop, 2).await;
    }
    for _ in 0..4 {
        let asked = staying.asked().await;
        let rest = if resumed(&asked).is_empty() { "retried" } else { "and resumed" };
        asked.answer(&[rest]).await;
    }
    for answer in waiting {
        streams.push(answer.await.expect("sent"));
    }
    let mut endings = Vec::new();
    for mut stream in streams {
        let events = stream.events().await;
        endings.push(match error(&events) {
            Some(error) => error["code"].to_string(),
            None => {
                assert_eq!(events.last(), Some(&Sent::Done));
                content(&events)
            }
        });
    }
    endings.sort();
    let (done, resumed) = ("begun and done", "begun and resumed");
    assert_eq!(endings, [done, done, done, done, resumed, resumed, "retried", "retried"]);
    assert_eq!(rig.metric("mlxcel_requests_in_flight").await, 0.0);
}

/// The stream if its headers have come by now, else the request itself.
async fn answer_of(mut answer: Running) -> Result<client::Answer, Running> {
    match tokio::time::timeout(Duration::from_millis(100), &mut answer).await {
        Ok(stream) => Ok(stream.expect("sent")),
        Err(_) => Err(answer),
    }
}
