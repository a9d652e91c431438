//! Starts a node from its options, and ends it in good order.
//!
//! Wires the parts together; what each does is its own business. Handles no signals: whoever runs
//! the process decides when to drain.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use mlxcel_cluster_config::claim::ClaimError;
use mlxcel_cluster_config::discovery::{Announcement, Discovery, Role, hostname};
use mlxcel_cluster_config::paths::node_dir;
use mlxcel_cluster_config::{Fingerprint, Identity, IdentityError};
use mlxcel_model_store::{OpenError, Store, StoreOptions};
use mlxcel_protocol::PROTOCOL_VERSION;
use mlxcel_protocol::v1::{LoadModelRequest, LoadProgress, NodeInfo, NodeState, Role as GivenRole};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::host::Host;
use crate::models::Models;
use crate::registration::{JoinAddress, JoinAddressError, Joiner, Registration};
use crate::service::Server;
use crate::supervisor::{Bounds, HANG_TIMEOUT, Slot, WorkerProgram};
use crate::trust::Trust;

/// What a node is told at its start.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Where identity and claim are kept, in the directory `node` below it.
    pub state_dir: PathBuf,
    /// Where the node listens; port 0 for any free one.
    pub listen: SocketAddr,
    /// The node's name for people.
    pub name: String,
    /// The secret that routers must prove; without it the first router claims the node.
    pub token: Option<String>,
    /// Routers to ask to connect, each as `host:port`.
    pub join: Vec<String>,
    /// Announce the node and look for routers by multicast DNS.
    pub mdns: bool,
    /// Models to load at once. One that cannot be loaded is logged, and the node goes on.
    pub models: Vec<LoadModelRequest>,
    /// What to run as each device's worker; the position is the device's index.
    pub workers: Vec<WorkerProgram>,
    /// Be given whole requests only, never a rank of a replica that spans hosts. The role of
    /// every node of a build without feature `distributed`.
    pub standalone: bool,
    /// A worker that has computed nothing of what it has for so long, and twenty times longer than it should take, is
    /// killed and started again; one that gives no sign of life at all in half the time.
    pub hang_timeout: Duration,
    /// Where models are kept and come from.
    pub store: StoreOptions,
}

impl NodeOptions {
    /// The defaults: any port of every interface, multicast on, no model, no worker yet.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>, store: StoreOptions) -> Self {
        Self {
            state_dir: state_dir.into(),
            listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            name: hostname(),
            token: None,
            join: Vec::new(),
            mdns: true,
            models: Vec::new(),
            workers: Vec::new(),
            standalone: !crate::DISTRIBUTED,
            hang_timeout: HANG_TIMEOUT,
            store,
        }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The node's key could not be loaded or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The claim could not be read.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The model store could not be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A router's address is not one.
    #[error(transparent)]
    Join(#[from] JoinAddressError),
    /// The token is empty.
    #[error("the token must not be empty; leave it out to be claimed by the first router")]
    EmptyToken,
    /// The node has no device.
    #[error("a node needs at least one device to run a worker on")]
    NoWorkers,
    /// The address to listen on cannot be had.
    #[error("cannot listen on {address}: {cause}{mend}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
        /// What to do about it, led in by a semicolon; empty where that is not known.
        mend: &'static str,
    },
    /// A device's worker ended before it was ready.
    #[error("device {device} cannot be used: {reason}")]
    Worker {
        /// The device's index.
        device: usize,
        /// How the worker ended, and the last line it printed.
        reason: String,
    },
}

/// Starts nodes.
#[derive(Debug, Clone, Copy)]
pub struct Node;

/// The progress of one load, ending with one `ready` or `failed`.
pub type LoadProgressStream = BoxStream<'static, LoadProgress>;

/// A node that serves until it is drained. Dropping it stops it at once: its workers are killed.
pub struct RunningNode {
    id: Fingerprint,
    local_addr: SocketAddr,
    host: Arc<Host>,
    server: Server,
    serving: JoinHandle<()>,
    /// Ends the announcement.
    leaving: CancellationToken,
    registration: Option<JoinHandle<()>>,
    /// Stopped with the node.
    _background: JoinSet<()>,
}

impl Node {
    /// Starts a node: when this returns, it listens and every worker is ready. Call inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// One line naming what is wrong and, where known, its mend.
    pub async fn start(options: NodeOptions) -> Result<RunningNode, StartError> {
        let join = check(&options)?;
        let dir = node_dir(&options.state_dir);
        let identity = Identity::load_or_create(&dir)?;
        let id = identity.fingerprint();
        let (events, watched) = mpsc::unbounded_channel();
        let trust = Arc::new(Trust::load(dir, options.token.clone(), id, events)?);
        let store = Store::open(options.store.clone())?;
        let (listener, local_addr) = listen(options.listen).await?;

        let (changed, _) = watch::channel(());
        let slots = start_workers(&options, &changed).await?;
        let models = Arc::new(Models::new(store, Arc::clone(&slots)));
        let host = Arc::new(Host::new(describe(id, &options), slots, models, changed));
        let server = Server::new(Arc::clone(&host), Arc::clone(&trust), &identity);
        let serving = tokio::spawn(server.clone().run(listener));

        let joiner = Arc::new(Joiner { identity, listen: local_addr });
        let mut background = JoinSet::new();
        for address in join {
            background.spawn(Arc::clone(&joiner).keep_joined(address));
        }
        background.spawn(keep_listed(Arc::clone(&host)));
        let announcement = announcement(&options.name, &trust, local_addr);
        let discovery = options.mdns.then(|| discover(&announcement)).flatten();
        let leaving = CancellationToken::new();
        let stopping = leaving.clone();
        let registration = Registration { announcement, discovery, joiner, events: watched, stopping };
        let registration = Some(tokio::spawn(registration.run()));
        info!(node = %id, %local_addr, standalone = options.standalone, "node listens");

        let node = RunningNode {
            id,
            local_addr,
            host,
            server,
            serving,
            leaving,
            registration,
            _background: background,
        };
        for model in options.models {
            tokio::spawn(node.load_model(model).for_each(|_| std::future::ready(())));
        }
        Ok(node)
    }
}

impl RunningNode {
    /// Fingerprint of the node's key.
    #[must_use]
    pub const fn id(&self) -> Fingerprint {
        self.id
    }

    /// Where the node listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What the node says of itself to routers.
    #[must_use]
    pub fn state(&self) -> NodeState {
        self.host.state()
    }

    /// Loads a model on every worker; the load goes on when the stream is dropped.
    #[must_use]
    pub fn load_model(&self, request: LoadModelRequest) -> LoadProgressStream {
        self.host.load(request)
    }

    /// Takes no new requests and is found no more; lets the running requests finish for as long
    /// as `patience`, ends what is left with a failure of its own, and returns when every worker
    /// process is gone.
    pub async fn drain(mut self, patience: Duration) {
        info!(running = self.host.running(), "draining");
        self.leaving.cancel();
        let finished = self.host.drain(patience).await;
        if !finished {
            warn!(running = self.host.running(), "requests still run; ending them");
        }
        self.host.stop().await;
        // Gives what the streams still hold, a failure perhaps, its time on the wire.
        self.host.drain(LAST_WORDS).await;
        self.server.stopping.cancel();
        self.server.connections.close();
        // Connections that do not end by now are callers that do not read.
        let _ = timeout(LAST_WORDS, self.server.connections.wait()).await;
        if let Some(registration) = self.registration.take() {
            let _ = timeout(LAST_WORDS, registration).await;
        }
        info!("node ended");
    }

    /// Returns when the node no longer serves, which it does not do on its own.
    pub async fn wait(&mut self) {
        // An abort or a panic ends it as well.
        let _ = (&mut self.serving).await;
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.leaving.cancel();
        self.server.stopping.cancel();
        self.host.abandon();
    }
}

impl std::fmt::Debug for RunningNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningNode")
            .field("id", &self.id)
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

fn check(options: &NodeOptions) -> Result<Vec<JoinAddress>, StartError> {
    if options.token.as_deref() == Some("") {
        return Err(StartError::EmptyToken);
    }
    if options.workers.is_empty() {
        return Err(StartError::NoWorkers);
    }
    Ok(options.join.iter().map(|text| text.parse()).collect::<Result<_, _>>()?)
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |cause: io::Error| {
        let mend = match cause.kind() {
            io::ErrorKind::AddrInUse => "; stop what listens there, or give another port, 0 for any free one",
            io::ErrorKind::PermissionDenied => "; give a port above 1023",
            io::ErrorKind::AddrNotAvailable => "; give an address of this host",
            _ => "",
        };
        StartError::Listen { address, cause, mend }
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local_addr = listener.local_addr().map_err(failed)?;
    Ok((listener, local_addr))
}

/// Starts every worker and waits until all are ready; one that cannot start stops the others.
async fn start_workers(
    options: &NodeOptions,
    changed: &watch::Sender<()>,
) -> Result<Arc<[Slot]>, StartError> {
    let bounds = Bounds { hang: options.hang_timeout, ..Bounds::default() };
    let slots: Arc<[Slot]> = (0..)
        .zip(&options.workers)
        .map(|(index, program)| Slot::start(index, program.clone(), bounds, changed.clone()))
        .collect();
    for (device, slot) in slots.iter().enumerate() {
        if let Err(reason) = slot.first_ready().await {
            futures::future::join_all(slots.iter().map(Slot::stop)).await;
            return Err(StartError::Worker { device, reason });
        }
    }
    Ok(slots)
}

fn describe(id: Fingerprint, options: &NodeOptions) -> NodeInfo {
    let worker = GivenRole::Worker.into();
    NodeInfo {
        id: id.to_string(),
        hostname: options.name.clone(),
        os: std::env::consts::OS.into(),
        arch: std::env::consts::ARCH.into(),
        roles: if options.standalone { vec![worker] } else { vec![worker, GivenRole::Rank.into()] },
        ..NodeInfo::default()
    }
}

fn announcement(name: &str, trust: &Trust, local_addr: SocketAddr) -> Announcement {
    let ip = local_addr.ip();
    Announcement {
        id: trust.own(),
        role: Role::Node,
        cluster: trust.cluster(),
        protocol_version: PROTOCOL_VERSION,
        software_version: env!("CARGO_PKG_VERSION").into(),
        hostname: name.into(),
        port: local_addr.port(),
        addresses: if ip.is_unspecified() { Vec::new() } else { vec![ip] },
    }
}

/// A node without multicast can still be joined by address, so this is no reason to end.
fn discover(announcement: &Announcement) -> Option<Discovery> {
    Discovery::start(announcement.clone()).map_err(|error| warn!("{error}")).ok()
}

/// Keeps what the store holds up to date in the node's state.
async fn keep_listed(host: Arc<Host>) {
    let mut look = interval(LIST_INTERVAL);
    loop {
        look.tick().await;
        host.refresh_loadable().await;
    }
}

const LAST_WORDS: Duration = Duration::from_millis(500);
const LIST_INTERVAL: Duration = Duration::from_secs(10);
