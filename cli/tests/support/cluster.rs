//! A router and its nodes, each a process with a directory of its own.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{self, Events, address_in};
use super::{Server, eventually, mlxcel, smollm2};

/// The name under which the nodes serve the default model.
pub(crate) const MODEL: &str = "tested";

/// A router, and what it takes to start nodes for it.
pub(crate) struct Cluster {
    dir: TempDir,
    token: String,
    /// What every process is started with besides its own flags.
    flags: Vec<String>,
    pub(crate) router: Server,
    pub(crate) address: String,
    control: String,
}

impl Cluster {
    /// A cluster whose members find each other by multicast.
    pub(crate) fn by_multicast() -> Self {
        Self::start(&[])
    }

    /// A cluster whose nodes are told where the router is.
    pub(crate) fn by_address() -> Self {
        Self::start(&["--no-mdns"])
    }

    fn start(flags: &[&str]) -> Self {
        let dir = TempDir::new().expect("a directory");
        // A secret of its own keeps every other cluster on this network out.
        let token = format!("{}-{}", std::process::id(), dir.path().display());
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let mut command = mlxcel();
        command.args(["router", "--port", "0", "--token", &token]).args(&flags);
        let router = Server::spawn(command.arg("--state-dir").arg(dir.path().join("router")));
        let line = router.wait_for("http://");
        let port = line.rsplit(' ').next().expect("the line ends with the nodes' port");
        let control = format!("127.0.0.1:{port}");
        Self { dir, token, flags, router, address: address_in(&line), control }
    }

    /// Starts a node that serves the default model on the CPU.
    pub(crate) fn node(&self, name: &str) -> Server {
        let mut command = mlxcel();
        // Nothing that this user has stored is on offer.
        command.env("MLXCEL_CACHE_DIR", self.dir.path()).env("HF_HOME", self.dir.path());
        command.args(["node", "--alias", MODEL, "--device", "cpu", "-m", &smollm2()]);
        command.args(["--name", name, "--token", &self.token]).args(&self.flags);
        if !self.flags.is_empty() {
            command.args(["--join", &self.control]);
        }
        Server::spawn(command.arg("--state-dir").arg(self.dir.path().join(name)))
    }

    /// What the router says of itself.
    pub(crate) fn health(&self) -> Value {
        http::json(&self.address, "GET", "/health", &Value::Null).1
    }

    /// What the router says of the node with this name, once it is connected.
    pub(crate) fn health_of(&self, name: &str) -> Option<Value> {
        let health = self.health();
        health["nodes"].as_array()?.iter().find(|node| node["hostname"] == name).cloned()
    }

    /// Process of the node's worker, where it is ready and has the model.
    pub(crate) fn ready_worker(&self, name: &str) -> Option<u32> {
        let node = self.health_of(name)?;
        let worker = &node["workers"][0];
        let ready = worker["health"] == "ready" && worker["models"][0]["status"] == "ready";
        worker["pid"].as_u64().filter(|_| ready).and_then(|pid| pid.try_into().ok())
    }

    /// Waits until the node serves the model; the process of its worker.
    pub(crate) fn wait_until_serving(&self, name: &str) -> u32 {
        let mut worker = None;
        eventually(&format!("{name} serves the model"), || {
            worker = self.ready_worker(name);
            worker.is_some()
        });
        worker.expect("just seen")
    }

    /// Requests the router has on the node.
    pub(crate) fn in_flight(&self, name: &str) -> u64 {
        let node = self.health_of(name).expect("the node is connected");
        node["in_flight"].as_u64().expect("a count")
    }

    /// Requests the node's worker has, running or waiting.
    pub(crate) fn requests_on(&self, name: &str) -> u64 {
        let node = self.health_of(name).expect("the node is connected");
        let model = &node["workers"][0]["models"][0];
        model["running"].as_u64().expect("a count") + model["waiting"].as_u64().expect("a count")
    }

    /// Asks a short question, which must be answered.
    pub(crate) fn ask(&self) -> String {
        let mut body = question("What is the capital of France?", 12);
        body["stream"] = json!(false);
        let (status, answer) = http::json(&self.address, "POST", "/v1/chat/completions", &body);
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
    }

    /// Begins a streamed answer.
    pub(crate) fn stream(&self, body: &Value) -> Events {
        Events::post(&self.address, "/v1/chat/completions", body)
    }
}

/// A streamed, greedy chat request.
pub(crate) fn question(text: &str, max_tokens: u32) -> Value {
    json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": true,
    })
}

/// A request whose answer has exactly so many tokens.
pub(crate) fn long_answer(tokens: u32) -> Value {
    let mut body = question("Tell me a story about a lighthouse keeper and the sea.", tokens);
    body["ignore_eos"] = json!(true);
    body
}
