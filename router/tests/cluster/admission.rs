//! More requests than nodes have room for.

use std::time::Duration;

use serde_json::json;

use super::client::{self, Answer};
use super::node::FakeNode;
use super::rig::{Rig, chat};

/// A node with room for one request and another behind it, and a router with a queue of this size.
async fn small(queue: usize) -> (FakeNode, Rig) {
    let node = FakeNode::with(&["m"]).await;
    node.now(|state| state.workers[0].models[0].max_running = 1);
    let join = vec![node.address.to_string()];
    let rig = Rig::start(|options| {
        options.join = join;
        (options.queue, options.queue_per_model) = (queue, queue);
    })
    .await;
    rig.until_connected(1).await;
    (node, rig)
}

async fn content(answer: Answer) -> String {
    let body = answer.json().await;
    body["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
}

#[tokio::test]
async fn requests_wait_their_turn_and_what_exceeds_the_queue_is_told_when_to_come_again() {
    let (mut node, rig) = small(2).await;
    let on_node = [rig.chat(json!({})), rig.chat(json!({}))];
    let asked = [node.asked().await, node.asked().await];
    let later = rig.chat(json!({"priority": 0}));
    rig.until(|health| health["queued"] == 1).await;
    let first = rig.chat(json!({"priority": 5}));
    rig.until(|health| health["queued"] == 2).await;
    let refused = client::post(rig.at, "/v1/chat/completions", &chat(json!({}))).await;
    assert_eq!(refused.status, 429);
    let seconds: u64 = refused.header("retry-after").parse().expect("whole seconds");
    assert!(seconds >= 1);
    assert_eq!(refused.json().await["error"]["code"], "queue_full");
    assert!(!node.is_asked(), "sent although there was no room");

    asked[0].answer(&["one"]).await;
    let next = node.asked().await;
    assert_eq!(next.request.priority, 5);
    rig.until(|health| health["queued"] == 1).await;
    next.answer(&["first"]).await;
    node.asked().await.answer(&["later"]).await;
    asked[1].answer(&["two"]).await;
    let mut texts = Vec::new();
    for answer in on_node.into_iter().chain([first, later]) {
        texts.push(content(answer.await.expect("sent")).await);
    }
    assert_eq!(texts[2..], ["first", "later"]);
    assert_eq!(rig.metric("mlxcel_requests_queued").await, 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_gives_up_its_place() {
    let (mut node, rig) = small(1).await;
    let _on_node = [rig.chat(json!({})), rig.chat(json!({}))];
    let _asked = [node.asked().await, node.asked().await];
    let leaves = rig.chat(json!({}));
    rig.until(|health| health["queued"] == 1).await;
    leaves.abort();
    rig.until(|health| health["queued"] == 0).await;
    let _waits = rig.chat(json!({}));
    rig.until(|health| health["queued"] == 1).await;
}

#[tokio::test]
async fn a_request_whose_time_passes_in_the_queue_ends_there() {
    let (mut node, rig) = small(1).await;
    let _on_node = [rig.chat(json!({})), rig.chat(json!({}))];
    let _asked = [node.asked().await, node.asked().await];
    let body = chat(json!({}));
    let late = client::post_with(rig.at, &[("x-request-timeout-ms", "200")], &body).await;
    assert_eq!(late.status, 504);
    rig.until(|health| health["queued"] == 0).await;
    assert!(!node.is_asked());
}

#[tokio::test]
async fn a_request_that_waits_goes_when_its_node_has_more_room() {
    let (mut node, rig) = small(1).await;
    let on_node = [rig.chat(json!({})), rig.chat(json!({}))];
    let _asked = [node.asked().await, node.asked().await];
    let waits = rig.chat(json!({}));
    rig.until(|health| health["queued"] == 1).await;
    node.now(|state| state.workers[0].models[0].max_running = 3);
    let asked = node.asked().await;
    asked.answer(&["room"]).await;
    assert_eq!(content(waits.await.expect("sent")).await, "room");
    drop(on_node);
}

/// A wrong request says nothing of the node that refused it.
#[tokio::test]
async fn what_a_client_does_wrong_is_not_held_against_a_node() {
    let (mut node, rig) = small(1).await;
    for _ in 0..20 {
        let wrong = rig.chat(json!({}));
        let kind = mlxcel_protocol::v1::FailureKind::InvalidRequest;
        node.asked().await.fail(kind, "the prompt is longer than the context").await;
        assert_eq!(wrong.await.expect("sent").status, 400);
    }
    let right = rig.chat(json!({}));
    let asked = tokio::time::timeout(Duration::from_secs(1), node.asked()).await.expect("at once");
    asked.answer(&["ok"]).await;
    assert_eq!(content(right.await.expect("sent")).await, "ok");
}

#[tokio::test]
async fn requests_of_several_keys_are_told_apart_and_their_users_are_not() {
    let mut node = FakeNode::with(&["m"]).await;
    let join = vec![node.address.to_string()];
    let rig = Rig::start(|options| {
        options.join = join;
        options.api_keys = vec!["one".into(), "two".into()];
    })
    .await;
    rig.until_connected(1).await;
    let mut clients = Vec::new();
    for (key, user) in [("Bearer one", "a"), ("Bearer one", "b"), ("Bearer two", "a")] {
        let at = rig.at;
        let body = chat(json!({"user": user}));
        tokio::spawn(async move { client::post_with(at, &[("authorization", key)], &body).await });
        clients.push(node.asked().await.request.client);
    }
    assert_eq!(clients, ["key 0", "key 0", "key 1"]);
}
