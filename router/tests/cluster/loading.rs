//! Models that have to be loaded first.

use serde_json::json;

use super::client;
use super::node::{FakeNode, LoadAsked, model_state, state};
use super::rig::Rig;

async fn able_to_load(model: &str) -> FakeNode {
    let mut state = state(&[]);
    state.loadable_models = vec![model.to_owned()];
    FakeNode::start(state, None).await.0
}

async fn loaded(node: &FakeNode, load: LoadAsked) {
    let model = load.model.clone();
    node.now(|state| state.workers[0].models.push(model_state(&model)));
    load.succeed().await;
}

#[tokio::test]
async fn model_is_loaded_once_for_all_that_wait_and_then_served() {
    let mut node = able_to_load("m").await;
    let rig = Rig::with(&[&node]).await;
    let listed = client::get(rig.at, "/v1/models").await.json().await;
    assert_eq!(listed["data"][0]["status"], "loadable");
    let answers = [rig.chat(json!({})), rig.chat(json!({}))];
    let load = node.load_asked().await;
    assert_eq!(load.model, "m");
    loaded(&node, load).await;
    for _ in 0..2 {
        node.asked().await.answer(&["ok"]).await;
    }
    for answer in answers {
        assert_eq!(answer.await.expect("sent").status, 200);
    }
}

#[tokio::test]
async fn node_that_has_the_model_is_preferred_to_loading_it() {
    let mut cold = able_to_load("m").await;
    let mut warm = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&cold, &warm]).await;
    for _ in 0..3 {
        let answer = rig.chat(json!({}));
        warm.asked().await.answer(&["ok"]).await;
        assert_eq!(answer.await.expect("sent").status, 200);
    }
    assert!(!cold.is_asked());
}

#[tokio::test]
async fn failed_load_is_the_requests_error_when_no_other_node_can() {
    let mut node = able_to_load("m").await;
    let rig = Rig::with(&[&node]).await;
    let answer = rig.chat(json!({}));
    let load = node.load_asked().await;
    load.fail("model.safetensors is truncated; download it again").await;
    let answer = answer.await.expect("sent");
    assert_eq!(answer.status, 500);
    let error = answer.json().await["error"].clone();
    assert_eq!(error["code"], "model_load_failed");
    let message = error["message"].as_str().expect("text");
    assert!(message.contains("model.safetensors is truncated"), "{message}");
}

#[tokio::test]
async fn node_that_dies_while_loading_leaves_it_to_another() {
    let mut nodes = [able_to_load("m").await, able_to_load("m").await];
    let [a, b] = &nodes;
    let rig = Rig::with(&[a, b]).await;
    let answer = rig.chat(json!({}));
    let [a, b] = &mut nodes;
    let (first, second) = tokio::select! {
        _ = a.load_asked() => (a, b),
        _ = b.load_asked() => (b, a),
    };
    first.kill().await;
    let load = second.load_asked().await;
    loaded(second, load).await;
    second.asked().await.answer(&["ok"]).await;
    assert_eq!(answer.await.expect("sent").status, 200);
}
