//! A node whose every step the test decides.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use mlxcel_cluster_config::{Identity, LinkCause, tls};
use mlxcel_protocol::PROTOCOL_VERSION;
use mlxcel_protocol::v1::generate_event::Kind;
use mlxcel_protocol::v1::node_server::{Node, NodeServer};
use mlxcel_protocol::v1::*;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// How long a test waits for something that must happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A running fake node.
pub(crate) struct FakeNode {
    pub(crate) address: SocketAddr,
    pub(crate) id: String,
    script: Arc<Script>,
    asked: mpsc::UnboundedReceiver<Asked>,
    loads: mpsc::UnboundedReceiver<LoadAsked>,
    cancels: mpsc::UnboundedReceiver<String>,
    moves: mpsc::UnboundedReceiver<MoveAsked>,
    /// Requests seen while looking for another.
    early: VecDeque<Asked>,
    tasks: JoinSet<()>,
}

/// A request that has reached the node.
pub(crate) struct Asked {
    pub(crate) request: GenerateRequest,
    events: mpsc::Sender<Result<GenerateEvent, Status>>,
}

/// A load that has been asked for.
pub(crate) struct LoadAsked {
    pub(crate) model: String,
    progress: mpsc::Sender<Result<LoadProgress, Status>>,
}

/// One end of a move of a prefix.
pub(crate) struct MoveAsked {
    told: tonic::Streaming<MovePrefixRequest>,
    said: mpsc::Sender<Result<MovePrefixEvent, Status>>,
}

struct Script {
    state: watch::Sender<NodeState>,
    silent: Arc<AtomicBool>,
    /// What a router that introduces itself is told instead of a welcome.
    refusal: Option<LinkCause>,
    hellos: mpsc::UnboundedSender<HelloRequest>,
    asked: mpsc::UnboundedSender<Asked>,
    loads: mpsc::UnboundedSender<LoadAsked>,
    cancels: mpsc::UnboundedSender<String>,
    moves: mpsc::UnboundedSender<MoveAsked>,
}

impl FakeNode {
    /// A node with one ready worker that has these models ready.
    pub(crate) async fn with(models: &[&str]) -> Self {
        Self::start(state(models), None).await.0
    }

    /// A node that refuses every router.
    pub(crate) async fn refusing(cause: LinkCause) -> Self {
        Self::start(state(&["m"]), Some(cause)).await.0
    }

    pub(crate) async fn start(
        state: NodeState,
        refusal: Option<LinkCause>,
    ) -> (Self, mpsc::UnboundedReceiver<HelloRequest>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        Self::start_at(listener, state, refusal)
    }

    pub(crate) fn start_at(
        listener: TcpListener,
        state: NodeState,
        refusal: Option<LinkCause>,
    ) -> (Self, mpsc::UnboundedReceiver<HelloRequest>) {
        let identity = Identity::generate().expect("identity");
        let address = listener.local_addr().expect("bound");
        let (asked_tx, asked) = mpsc::unbounded_channel();
        let (loads_tx, loads) = mpsc::unbounded_channel();
        let (cancels_tx, cancels) = mpsc::unbounded_channel();
        let (moves_tx, moves) = mpsc::unbounded_channel();
        let (hellos_tx, hellos) = mpsc::unbounded_channel();
        let script = Arc::new(Script {
            state: watch::Sender::new(state),
            silent: Arc::default(),
            refusal,
            hellos: hellos_tx,
            asked: asked_tx,
            loads: loads_tx,
            cancels: cancels_tx,
            moves: moves_tx,
        });
        let id = identity.fingerprint().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, identity, Arc::clone(&script)));
        let early = VecDeque::new();
        let node = Self { address, id, script, asked, loads, cancels, moves, early, tasks };
        (node, hellos)
    }

    /// The next request that reaches the node.
    pub(crate) async fn asked(&mut self) -> Asked {
        if let Some(asked) = self.early.pop_front() {
            return asked;
        }
        let asked = timeout(LIMIT, self.asked.recv()).await;
        asked.expect("a request should reach the node").expect("node runs")
    }

    /// Whether a request has reached the node that the test has not taken.
    pub(crate) fn is_asked(&mut self) -> bool {
        match self.asked.try_recv() {
            Ok(asked) => {
                self.early.push_back(asked);
                true
            }
            Err(_) => !self.early.is_empty(),
        }
    }

    pub(crate) async fn load_asked(&mut self) -> LoadAsked {
        let asked = timeout(LIMIT, self.loads.recv()).await;
        asked.expect("a load should be asked for").expect("node runs")
    }

    /// The id of the next request the router cancels by name.
    pub(crate) async fn cancelled(&mut self) -> String {
        let cancelled = timeout(LIMIT, self.cancels.recv()).await;
        cancelled.expect("a cancellation should come").expect("node runs")
    }

    /// The next move that the node is to have an end of.
    pub(crate) async fn move_asked(&mut self) -> MoveAsked {
        let asked = timeout(LIMIT, self.moves.recv()).await;
        asked.expect("a move should be asked for").expect("node runs")
    }

    /// Whether one has been asked for.
    pub(crate) fn is_move_asked(&self) -> bool {
        !self.moves.is_empty()
    }

    /// Changes what the node says about itself.
    pub(crate) fn now(&self, change: impl FnOnce(&mut NodeState)) {
        self.script.state.send_modify(change);
    }

    /// Stops reporting and beating, with every connection left open.
    pub(crate) fn hang(&self) {
        self.script.silent.store(true, Ordering::SeqCst);
    }

    /// Reports and beats again.
    pub(crate) fn go_on(&self) {
        self.script.silent.store(false, Ordering::SeqCst);
    }

    /// Dies: every socket closes.
    pub(crate) async fn kill(&mut self) {
        self.tasks.shutdown().await;
    }
}

impl Asked {
    pub(crate) async fn started(&self) {
        self.send(Kind::Started(Started { prompt_tokens: 3, device_index: Some(0) })).await;
    }

    pub(crate) async fn delta(&self, text: &str) {
        let choice = ChoiceDelta { text: text.to_owned(), token_ids: vec![7], ..ChoiceDelta::default() };
        self.deltas(&[choice]).await;
    }

    pub(crate) async fn deltas(&self, choices: &[ChoiceDelta]) {
        self.send(Kind::Delta(Delta { choices: choices.to_vec() })).await;
    }

    pub(crate) async fn finish(&self, reason: FinishReason, completion_tokens: u32) {
        let finished = Finished {
            reason: reason.into(),
            prompt_tokens: 3,
            completion_tokens,
            cached_tokens: 2,
            prefill_micros: 1,
            decode_micros: 1,
        };
        self.send(Kind::Finished(finished)).await;
    }

    /// Ends, having computed a prompt of so many tokens in this time.
    pub(crate) async fn finish_after_prefill(&self, prompt_tokens: u32, prefill: Duration) {
        let prefill_micros = u64::try_from(prefill.as_micros()).expect("short");
        let reason = FinishReason::Stop.into();
        let finished = Finished { reason, prompt_tokens, prefill_micros, ..Finished::default() };
        self.send(Kind::Finished(finished)).await;
    }

    pub(crate) async fn fail(&self, kind: FailureKind, message: &str) {
        let failure = Failure { kind: kind.into(), message: message.to_owned() };
        self.send(Kind::Failed(failure)).await;
    }

    /// Answers with these pieces of text, one token each.
    pub(crate) async fn answer(&self, pieces: &[&str]) {
        self.started().await;
        for piece in pieces {
            self.delta(piece).await;
        }
        let count = u32::try_from(pieces.len()).expect("few");
        self.finish(FinishReason::Stop, count).await;
    }

    /// Ends when the router has dropped the request's stream.
    pub(crate) async fn dropped(&self) {
        let dropped = timeout(LIMIT, self.events.closed()).await;
        dropped.expect("the router should drop the stream");
    }

    async fn send(&self, kind: Kind) {
        // A router that has dropped the stream is what some tests look for, elsewhere.
        let _ = self.events.send(Ok(GenerateEvent { kind: Some(kind) })).await;
    }
}

impl MoveAsked {
    /// What the router says next.
    pub(crate) async fn told(&mut self) -> move_prefix_request::Kind {
        let told = timeout(LIMIT, self.told.message()).await.expect("the router should say something");
        told.expect("a stream").expect("not its end").kind.expect("a kind")
    }

    pub(crate) async fn say(&self, kind: move_prefix_event::Kind) {
        // A router that has given up is what some tests look for.
        let _ = self.said.send(Ok(MovePrefixEvent { kind: Some(kind) })).await;
    }

    /// Ends when the router has given the move up.
    pub(crate) async fn dropped(&self) {
        let dropped = timeout(LIMIT, self.said.closed()).await;
        dropped.expect("the router should give the move up");
    }
}

impl LoadAsked {
    pub(crate) async fn succeed(self) {
        let ready = model_state(&self.model);
        self.send(load_progress::Kind::Ready(ready)).await;
    }

    pub(crate) async fn fail(self, message: &str) {
        let failure = Failure { kind: FailureKind::Internal.into(), message: message.to_owned() };
        self.send(load_progress::Kind::Failed(failure)).await;
    }

    async fn send(self, kind: load_progress::Kind) {
        let sent = self.progress.send(Ok(LoadProgress { kind: Some(kind) }));
        sent.await.expect("the router waits for the load");
    }
}

/// A state with one ready worker that has these models ready.
pub(crate) fn state(models: &[&str]) -> NodeState {
    NodeState {
        node: Some(NodeInfo { hostname: "fake".into(), ..NodeInfo::default() }),
        workers: vec![WorkerState {
            health: WorkerHealth::Ready.into(),
            models: models.iter().map(|name| model_state(name)).collect(),
            pid: 42,
            ..WorkerState::default()
        }],
        ..NodeState::default()
    }
}

pub(crate) fn model_state(name: &str) -> ModelState {
    ModelState { name: name.to_owned(), status: ModelStatus::Ready.into(), ..ModelState::default() }
}

async fn serve(listener: TcpListener, identity: Identity, script: Arc<Script>) {
    let config = tls::server_config(&identity);
    // Dropped with this task, which closes every connection.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (config, script) = (Arc::clone(&config), Arc::clone(&script));
        connections.spawn(async move {
            let Ok((stream, _)) = tls::accept(stream, config).await else {
                return;
            };
            let service = TowerToHyperService::new(NodeServer::from_arc(script));
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Node for Script {
    type WatchStateStream = ReceiverStream<Result<NodeState, Status>>;
    type WatchBeatsStream = ReceiverStream<Result<Beat, Status>>;
    type LoadModelStream = ReceiverStream<Result<LoadProgress, Status>>;
    type JoinReplicaStream = ReceiverStream<Result<LoadProgress, Status>>;
    type GenerateStream = ReceiverStream<Result<GenerateEvent, Status>>;
    type MovePrefixStream = ReceiverStream<Result<MovePrefixEvent, Status>>;

    async fn hello(&self, request: Request<HelloRequest>) -> Reply<HelloReply> {
        let _ = self.hellos.send(request.into_inner());
        if let Some(cause) = &self.refusal {
            let details = cause.to_wire().into();
            let code = tonic::Code::PermissionDenied;
            return Err(Status::with_details(code, cause.to_string(), details));
        }
        Ok(Response::new(HelloReply { protocol_version: PROTOCOL_VERSION, ..HelloReply::default() }))
    }

    async fn watch_state(&self, _: Request<WatchStateRequest>) -> Reply<Self::WatchStateStream> {
        let (tx, rx) = mpsc::channel(4);
        let mut state = self.state.subscribe();
        let silent = Arc::clone(&self.silent);
        tokio::spawn(async move {
            loop {
                let latest = state.borrow_and_update().clone();
                // A node that hangs keeps its stream open.
                if !silent.load(Ordering::SeqCst) && tx.send(Ok(latest)).await.is_err() {
                    return;
                }
                if tx.is_closed() {
                    return;
                }
                let _ = timeout(Duration::from_millis(500), state.changed()).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn watch_beats(&self, _: Request<WatchBeatsRequest>) -> Reply<Self::WatchBeatsStream> {
        let (tx, rx) = mpsc::channel(4);
        let silent = Arc::clone(&self.silent);
        tokio::spawn(async move {
            while !tx.is_closed() {
                // A node that hangs keeps its stream open.
                if !silent.load(Ordering::SeqCst) {
                    let _ = tx.send(Ok(Beat {})).await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn load_model(&self, request: Request<LoadModelRequest>) -> Reply<Self::LoadModelStream> {
        let (progress, rx) = mpsc::channel(4);
        let model = request.into_inner().model;
        let _ = self.loads.send(LoadAsked { model, progress });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn join_replica(
        &self,
        _: Request<tonic::Streaming<JoinReplicaRequest>>,
    ) -> Reply<Self::JoinReplicaStream> {
        Err(Status::unimplemented("scripts are no ranks"))
    }

    async fn unload_model(&self, _: Request<UnloadModelRequest>) -> Reply<UnloadModelReply> {
        Err(Status::unimplemented("the router does not unload"))
    }

    async fn move_prefix(
        &self,
        request: Request<tonic::Streaming<MovePrefixRequest>>,
    ) -> Reply<Self::MovePrefixStream> {
        let (said, rx) = mpsc::channel(4);
        let _ = self.moves.send(MoveAsked { told: request.into_inner(), said });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn generate(&self, request: Request<GenerateRequest>) -> Reply<Self::GenerateStream> {
        let (events, rx) = mpsc::channel(64);
        let request = request.into_inner();
        let _ = self.asked.send(Asked { request, events });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Reply<CancelReply> {
        let _ = self.cancels.send(request.into_inner().request_id);
        Ok(Response::new(CancelReply { was_running: true }))
    }
}
