//! Starting and ending.

use std::time::Duration;

use mlxcel_protocol::v1::FinishReason;
use mlxcel_router::{Router, StartError};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::client::{Sent, content, error};
use super::node::{FakeNode, LIMIT};
use super::rig::{Rig, options};

#[tokio::test]
async fn drain_lets_a_stream_finish_and_takes_no_new_connection() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let answer = rig.chat(json!({"stream": true}));
    let asked = node.asked().await;
    asked.delta("first ").await;
    let mut answer = answer.await.expect("sent");
    let Rig { router, at, .. } = rig;
    let draining = tokio::spawn(router.drain(LIMIT));
    let refused = async {
        while TcpStream::connect(at).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, refused).await.expect("new connections are refused");
    asked.delta("last").await;
    asked.finish(FinishReason::Stop, 2).await;
    let events = answer.events().await;
    assert_eq!(content(&events), "first last");
    assert_eq!(events.last(), Some(&Sent::Done));
    drop(answer);
    timeout(LIMIT, draining).await.expect("drain ends").expect("no panic");
}

#[tokio::test]
async fn drain_ends_what_outlasts_its_patience_with_an_error() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let answer = rig.chat(json!({"stream": true}));
    let asked = node.asked().await;
    asked.delta("x").await;
    let mut answer = answer.await.expect("sent");
    let waiting = rig.chat(json!({}));
    let _never_answered = node.asked().await;
    let draining = tokio::spawn(rig.router.drain(Duration::from_millis(100)));
    let events = answer.events().await;
    assert_eq!(error(&events).expect("an error")["code"], "shutting_down");
    assert_eq!(waiting.await.expect("sent").status, 503);
    asked.dropped().await;
    drop(answer);
    timeout(LIMIT, draining).await.expect("drain ends").expect("no panic");
}

#[tokio::test]
async fn idle_connection_does_not_hold_up_a_drain() {
    let rig = Rig::start(|_| {}).await;
    let _never_used = TcpStream::connect(rig.at).await.expect("router listens");
    let used = super::client::get(rig.at, "/health").await;
    timeout(LIMIT / 2, rig.router.drain(LIMIT)).await.expect("drain ends");
    drop(used);
}

#[tokio::test]
async fn port_in_use_is_named_with_its_mend() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let address = taken.local_addr().expect("bound");
    let state = TempDir::new().expect("temporary directory");
    let mut options = options(&state);
    options.listen = address;
    let refused = Router::start(options).await.expect_err("taken");
    assert!(matches!(refused, StartError::Listen { .. }));
    let text = refused.to_string();
    assert!(text.starts_with(&format!("cannot listen on {address} for the HTTP API: ")), "{text}");
    let mend = format!("stop the program that uses port {}, or choose another port", address.port());
    assert!(text.ends_with(&mend), "{text}");
    assert!(!text.contains('\n'));
}

#[tokio::test]
async fn malformed_node_address_is_refused() {
    let state = TempDir::new().expect("temporary directory");
    for wrong in ["host", "host:", ":80", "host:99999"] {
        let mut options = options(&state);
        options.join = vec![wrong.to_owned()];
        let refused = Router::start(options).await.expect_err(wrong);
        assert!(refused.to_string().contains(wrong), "{refused}");
    }
}

#[tokio::test]
async fn cluster_key_survives_a_restart() {
    let state = TempDir::new().expect("temporary directory");
    let mut clusters = Vec::new();
    for _ in 0..2 {
        let router = Router::start(options(&state)).await.expect("starts");
        let health = super::client::get(router.local_addr(), "/health").await.json().await;
        clusters.push(health["cluster"].clone());
        router.drain(LIMIT).await;
    }
    assert_eq!(clusters[0], clusters[1]);
    assert_eq!(clusters[0].as_str().map(str::len), Some(64));
}
