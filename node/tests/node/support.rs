//! A node with toy workers, and a router's side of the connection to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mlxcel_cluster_config::tls::{self, Expect};
use mlxcel_cluster_config::token::token_proof;
use mlxcel_cluster_config::{Fingerprint, Identity};
use mlxcel_model_store::StoreOptions;
use mlxcel_node::{Node, NodeOptions, RunningNode, WorkerProgram};
use mlxcel_protocol::PROTOCOL_VERSION;
use mlxcel_protocol::v1::node_client::NodeClient;
use mlxcel_protocol::v1::{
    Failure, FailureKind, FinishReason, GenerateEvent, GenerateRequest, HelloReply, HelloRequest,
    LoadModelRequest, NodeState, WatchStateRequest, WorkerState, generate_event, generate_request,
    load_progress,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Long enough for a busy machine; a test that waits this long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A directory for one node's state, models and trace.
pub(crate) struct Bench {
    dir: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().expect("a directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A model file for the toy worker, by path.
    pub(crate) fn model(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, "toy").expect("a model");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Lines the workers have traced that start so.
    pub(crate) fn traced(&self, start: &str) -> usize {
        let trace = std::fs::read_to_string(self.path("trace")).unwrap_or_default();
        trace.lines().filter(|line| line.starts_with(start)).count()
    }

    pub(crate) fn worker(&self, args: &[&str]) -> WorkerProgram {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_mlxcel-toy-worker"));
        let trace = self.path("trace");
        let mut args: Vec<_> = args.iter().map(Into::into).collect();
        args.extend(["--trace".into(), trace.into_os_string()]);
        WorkerProgram { program, args }
    }

    pub(crate) fn options(&self) -> NodeOptions {
        let mut options = NodeOptions::new(self.path("state"), StoreOptions::at(self.path("models")));
        options.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        options.name = "bench".into();
        options.mdns = false;
        options.workers = vec![self.worker(&[])];
        options
    }

    pub(crate) async fn start(&self) -> RunningNode {
        Node::start(self.options()).await.expect("node starts")
    }

    /// A node with the model `m` loaded, and a router that has claimed it.
    pub(crate) async fn start_with_model(&self) -> (RunningNode, Router) {
        let node = self.start().await;
        let mut router = Router::claiming(&node).await;
        router.load(&self.model("m.gguf"), "m").await.expect("loads");
        (node, router)
    }
}

/// One connection of a router.
pub(crate) struct Router {
    pub(crate) client: NodeClient<Channel>,
    identity: Identity,
    node: Fingerprint,
}

impl Router {
    pub(crate) async fn connect(node: &RunningNode, identity: Identity) -> Self {
        let expected = Expect::Exactly(node.id());
        let (stream, node) = tls::connect(node.local_addr(), &identity, expected).await.expect("connects");
        let stream = Mutex::new(Some(TokioIo::new(stream)));
        let connector = tower::service_fn(move |_: http::Uri| {
            let stream = stream.lock().expect("lock").take();
            std::future::ready(stream.ok_or_else(|| std::io::Error::other("connection lost")))
        });
        let endpoint = Endpoint::from_static("http://node");
        let channel = endpoint.connect_with_connector(connector).await.expect("HTTP/2");
        Self { client: NodeClient::new(channel), identity, node }
    }

    pub(crate) async fn claiming(node: &RunningNode) -> Self {
        let mut router = Self::connect(node, Identity::generate().expect("a key")).await;
        router.hello(None).await.expect("claims");
        router
    }

    pub(crate) fn introduction(&self, token: Option<&str>) -> HelloRequest {
        let own = self.identity.fingerprint();
        HelloRequest {
            protocol_version: PROTOCOL_VERSION,
            software_version: "test".into(),
            cluster: own.to_string(),
            cluster_name: "test cluster".into(),
            token_proof: token.map_or_else(Vec::new, |it| token_proof(it, own, self.node).into()),
        }
    }

    pub(crate) async fn hello(&mut self, token: Option<&str>) -> Result<HelloReply, Status> {
        let request = self.introduction(token);
        Ok(self.client.hello(request).await?.into_inner())
    }

    /// How the load ended.
    pub(crate) async fn load(&mut self, model: &str, name: &str) -> Result<(), Failure> {
        let request =
            LoadModelRequest { model: model.into(), served_name: name.into(), ..LoadModelRequest::default() };
        self.load_with(request).await
    }

    /// How it ended.
    pub(crate) async fn load_with(&mut self, request: LoadModelRequest) -> Result<(), Failure> {
        let name = request.served_name.clone();
        let mut progress = self.client.load_model(request).await.expect("admitted").into_inner();
        loop {
            // Real engines measure their device and read their weights.
            let step = timeout(6 * LONG, progress.message()).await.expect("in time");
            match step.expect("stream").expect("an end").kind.expect("kind") {
                load_progress::Kind::Step(_) => {}
                load_progress::Kind::Ready(state) => {
                    assert_eq!(state.name, name);
                    return Ok(());
                }
                load_progress::Kind::Failed(failure) => return Err(failure),
                load_progress::Kind::Listening(_) => panic!("a whole model has no ranks"),
            }
        }
    }

    pub(crate) async fn generate(&mut self, id: &str, script: &str) -> Answer {
        let request = GenerateRequest {
            request_id: id.into(),
            model: "m".into(),
            prompt: Some(generate_request::Prompt::Text(script.into())),
            ..GenerateRequest::default()
        };
        Answer { events: self.client.generate(request).await.expect("admitted").into_inner() }
    }

    /// The first state of the node that fits.
    pub(crate) async fn state_where(&mut self, fits: impl Fn(&NodeState) -> bool) -> NodeState {
        let watch = self.client.watch_state(WatchStateRequest {}).await;
        let mut states = watch.expect("admitted").into_inner();
        let found = async {
            loop {
                let state = states.message().await.expect("stream").expect("goes on");
                if fits(&state) {
                    return state;
                }
            }
        };
        timeout(LONG, found).await.expect("the state is reached")
    }

    /// The first worker, once its model `m` is ready in a process other than `before`.
    pub(crate) async fn worker_after(&mut self, before: u32) -> WorkerState {
        let ready = |state: &NodeState| {
            let worker = &state.workers[0];
            worker.pid != before && worker.pid != 0 && worker.models.iter().any(|it| it.weight_bytes > 0)
        };
        self.state_where(ready).await.workers.swap_remove(0)
    }
}

/// The events of one request.
pub(crate) struct Answer {
    events: Streaming<GenerateEvent>,
}

impl Answer {
    pub(crate) async fn next(&mut self) -> generate_event::Kind {
        let event = timeout(LONG, self.events.message()).await.expect("in time");
        event.expect("stream").expect("an end").kind.expect("kind")
    }

    /// Waits for the first text.
    pub(crate) async fn first_text(&mut self) {
        while !matches!(self.next().await, generate_event::Kind::Delta(_)) {}
    }

    /// All text still to come, and how the request ended.
    pub(crate) async fn end(&mut self) -> (String, Result<FinishReason, FailureKind>) {
        let mut text = String::new();
        loop {
            match self.next().await {
                generate_event::Kind::Started(_) => {}
                generate_event::Kind::Delta(delta) => {
                    delta.choices.iter().for_each(|choice| text.push_str(&choice.text));
                }
                generate_event::Kind::Finished(it) => return (text, Ok(it.reason())),
                generate_event::Kind::Failed(it) => return (text, Err(it.kind())),
            }
        }
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    let killed = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
    assert!(killed.expect("kill runs").success(), "process {pid} takes {name}");
}

/// Whether the process runs; one that has ended and is not yet waited for does not.
pub(crate) fn runs(pid: u32) -> bool {
    let listed = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output();
    let state = String::from_utf8(listed.expect("ps runs").stdout).expect("text");
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

/// Waits until `reached`; panics with `what` after `within`.
pub(crate) async fn until(what: &str, within: Duration, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + within;
    while !reached() {
        assert!(Instant::now() < deadline, "{what} within {within:?}");
        sleep(Duration::from_millis(5)).await;
    }
}
