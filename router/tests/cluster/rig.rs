//! A router with the nodes a test wants, and the requests tests send.

use std::net::SocketAddr;
use std::time::Duration;

use mlxcel_router::{Router, RouterOptions, RunningRouter};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{self, Answer};
use super::node::{FakeNode, LIMIT};

/// A running router.
pub(crate) struct Rig {
    pub(crate) router: RunningRouter,
    pub(crate) at: SocketAddr,
    _state: TempDir,
}

/// Options that touch nothing outside the test.
pub(crate) fn options(state: &TempDir) -> RouterOptions {
    RouterOptions {
        listen: "127.0.0.1:0".parse().expect("address"),
        control_listen: "127.0.0.1:0".parse().expect("address"),
        mdns: false,
        ..RouterOptions::new(state.path())
    }
}

impl Rig {
    /// A router that is connected to these nodes.
    pub(crate) async fn with(nodes: &[&FakeNode]) -> Self {
        let join = nodes.iter().map(|n| n.address.to_string()).collect();
        let rig = Self::start(|options| options.join = join).await;
        rig.until_connected(nodes.len()).await;
        rig
    }

    pub(crate) async fn start(change: impl FnOnce(&mut RouterOptions)) -> Self {
        let state = TempDir::new().expect("temporary directory");
        let mut options = options(&state);
        change(&mut options);
        let router = Router::start(options).await.expect("router starts");
        Self { at: router.local_addr(), router, _state: state }
    }

    pub(crate) async fn until_connected(&self, nodes: usize) {
        self.until(|health| health["nodes"].as_array().map(Vec::len) == Some(nodes)).await;
    }

    /// Waits until the router's health is as told; returns it.
    pub(crate) async fn until(&self, settled: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let health = client::get(self.at, "/health").await.json().await;
                if settled(&health) {
                    return health;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("health settles")
    }

    /// Sends a chat request in the background.
    pub(crate) fn chat(&self, change: Value) -> tokio::task::JoinHandle<Answer> {
        let (at, body) = (self.at, chat(change));
        tokio::spawn(async move { client::post(at, "/v1/chat/completions", &body).await })
    }

    /// The sum of a metric's samples.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = client::get(self.at, "/metrics").await.text().await;
        let value = |line: &str| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok());
        text.lines().filter(|line| line.starts_with(name)).filter_map(value).sum()
    }
}

/// A chat request with some fields changed.
pub(crate) fn chat(change: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in change.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}
