//! Starts a router from its options, and ends it in good order.
//!
//! Wires the parts together; what each does is its own business. Handles no signals: whoever runs
//! the process decides when to drain.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use mlxcel_cluster_config::discovery::{Announcement, Discovery, Role, hostname};
use mlxcel_cluster_config::{Identity, IdentityError};
use mlxcel_protocol::PROTOCOL_VERSION;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::answer::unix_seconds;
use crate::api::{self, App};
use crate::metrics::Metrics;
use crate::nodes::link::Introduction;
use crate::nodes::members::Members;
use crate::nodes::roster::Roster;
use crate::nodes::{control, dial};
use crate::relay::Relay;

/// What a router is told at its start.
#[derive(Debug, Clone)]
pub struct RouterOptions {
    /// Where the cluster's key is kept, in the directory `cluster` below it.
    pub state_dir: PathBuf,
    /// Where the HTTP API listens.
    pub listen: SocketAddr,
    /// Where nodes call this router; port 0 for any free one.
    pub control_listen: SocketAddr,
    /// The cluster's name for people.
    pub name: String,
    /// The secret shared with nodes that require one.
    pub token: Option<String>,
    /// Nodes to connect to without multicast, each as `host:port`.
    pub join: Vec<String>,
    /// Announce this router and look for nodes by multicast DNS.
    pub mdns: bool,
    /// What clients of `/v1` must send as `Authorization: Bearer KEY`; nothing when absent.
    pub api_key: Option<String>,
    /// How long a request waits, in all, for a node that can serve it.
    pub patience: Duration,
}

impl RouterOptions {
    /// The defaults: HTTP on 127.0.0.1:8080, control on any port of every interface, multicast on.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DEFAULT_PORT),
            control_listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            name: hostname(),
            token: None,
            join: Vec::new(),
            mdns: true,
            api_key: None,
            patience: Duration::from_secs(30),
        }
    }
}

/// Why a router did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cluster's key could not be loaded or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An address to listen on cannot be had.
    #[error("cannot listen on {address} for {purpose}: {cause}{mend}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// What the system said.
        cause: std::io::Error,
        /// What to do about it, led in by a semicolon; empty where that is not known.
        mend: String,
    },
    /// A node's address is not one.
    #[error("a node to join must be given as host:port, got '{0}'")]
    JoinAddress(String),
    /// The API key is empty.
    #[error("the API key must not be empty; leave it out to serve without one")]
    EmptyApiKey,
    /// The metrics could not be set up.
    #[error("cannot set up metrics: {0}")]
    Metrics(String),
}

/// Starts routers.
#[derive(Debug, Clone, Copy)]
pub struct Router;

/// A router that serves until it is drained. Dropping it stops it at once.
#[derive(Debug)]
pub struct RunningRouter {
    local_addr: SocketAddr,
    control_addr: SocketAddr,
    /// Take no new connections; end when the running requests have.
    draining: CancellationToken,
    /// End the running requests.
    stopping: CancellationToken,
    members: Members,
    discovery: Option<Discovery>,
    http: JoinHandle<()>,
    stop_nodes: CancellationToken,
}

impl Router {
    /// Starts a router: when this returns, it listens. Call inside a tokio runtime.
    ///
    /// # Errors
    /// One line naming what is wrong and, where known, its mend.
    pub async fn start(options: RouterOptions) -> Result<RunningRouter, StartError> {
        check(&options)?;
        let identity = Identity::load_or_create(&options.state_dir.join("cluster"))?;
        let cluster = identity.fingerprint();
        tracing::info!(%cluster, name = %options.name, "cluster key");
        let http = listen(options.listen, "the HTTP API").await?;
        let control = listen(options.control_listen, "the control port").await?;
        let local_addr = bound(&http, options.listen, "the HTTP API")?;
        let control_addr = bound(&control, options.control_listen, "the control port")?;
        let metrics = Metrics::new().map_err(|e| StartError::Metrics(e.to_string()))?;

        let stop_nodes = CancellationToken::new();
        let introduction = Introduction {
            identity: identity.clone(),
            name: options.name.clone(),
            token: options.token.clone(),
        };
        let roster = Roster::new();
        let members = Members::new(introduction, roster.clone(), stop_nodes.clone());
        members.spawn(roster.clone().watch_silence());
        members.spawn(control::serve(members.clone(), control));
        members.spawn(keep_up(metrics.clone()));
        for address in &options.join {
            members.spawn(dial::keep_dialling(members.clone(), address.clone()));
        }
        let announcement = announcement(&identity, control_addr);
        let discovery = options.mdns.then(|| discover(announcement, &members)).flatten();

        let stopping = CancellationToken::new();
        let relay = Relay { roster, metrics, stopping: stopping.clone(), patience: options.patience };
        let app = app(&options, cluster.to_string(), relay, members.clone());
        let draining = CancellationToken::new();
        let http = tokio::spawn(serve_http(http, app, draining.clone()));
        tracing::info!(%local_addr, %control_addr, "router listens");
        Ok(RunningRouter {
            local_addr,
            control_addr,
            draining,
            stopping,
            members,
            discovery,
            http,
            stop_nodes,
        })
    }
}

impl RunningRouter {
    /// Where the HTTP API listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where nodes call.
    #[must_use]
    pub const fn control_addr(&self) -> SocketAddr {
        self.control_addr
    }

    /// Takes no new requests, lets the running ones finish for as long as `patience`, ends what is
    /// left with an error of its own, and returns when everything has ended.
    pub async fn drain(mut self, patience: Duration) {
        tracing::info!("draining");
        self.draining.cancel();
        if let Some(discovery) = self.discovery.take() {
            discovery.shutdown().await;
        }
        if timeout(patience, &mut self.http).await.is_err() {
            tracing::warn!("requests still run; ending them");
            self.stopping.cancel();
            // What is left now are clients that do not read; nothing is owed to them.
            let _ = timeout(LAST_WORDS, &mut self.http).await;
        }
        // Gives the cancellations of what was just dropped their time on the wire.
        tokio::time::sleep(FAREWELL).await;
        self.stop_nodes.cancel();
        self.members.stopped().await;
        tracing::info!("router ended");
    }

    /// Returns when the HTTP server has ended, which it does not do on its own.
    pub async fn wait(&mut self) {
        // An abort or a panic ends it as well.
        let _ = (&mut self.http).await;
    }
}

impl Drop for RunningRouter {
    fn drop(&mut self) {
        self.draining.cancel();
        self.stopping.cancel();
        self.stop_nodes.cancel();
    }
}

fn check(options: &RouterOptions) -> Result<(), StartError> {
    if options.api_key.as_deref() == Some("") {
        return Err(StartError::EmptyApiKey);
    }
    let well_formed = |address: &&String| {
        address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    match options.join.iter().find(|address| !well_formed(address)) {
        Some(address) => Err(StartError::JoinAddress(address.clone())),
        None => Ok(()),
    }
}

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|cause| cannot_listen(address, purpose, cause))
}

fn bound(
    listener: &TcpListener,
    address: SocketAddr,
    purpose: &'static str,
) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|cause| cannot_listen(address, purpose, cause))
}

fn cannot_listen(address: SocketAddr, purpose: &'static str, cause: std::io::Error) -> StartError {
    let port = address.port();
    let mend = match cause.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("; stop the program that uses port {port}, or choose another port")
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("; port {port} needs privileges, choose one above 1023")
        }
        std::io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address".to_owned(),
        _ => String::new(),
    };
    StartError::Listen { address, purpose, cause, mend }
}

fn announcement(identity: &Identity, control: SocketAddr) -> Announcement {
    let everywhere = |ip: &IpAddr| !ip.is_unspecified();
    Announcement {
        id: identity.fingerprint(),
        role: Role::Router,
        cluster: Some(identity.fingerprint()),
        protocol_version: PROTOCOL_VERSION,
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: hostname(),
        port: control.port(),
        addresses: Some(control.ip()).filter(everywhere).into_iter().collect(),
    }
}

/// Without multicast the router still serves nodes given by address or asking to be joined.
fn discover(announcement: Announcement, members: &Members) -> Option<Discovery> {
    match Discovery::start(announcement) {
        Ok(discovery) => {
            members.spawn(members.clone().listen(discovery.events()));
            Some(discovery)
        }
        Err(error) => {
            tracing::error!("{error}");
            None
        }
    }
}

fn app(options: &RouterOptions, cluster: String, relay: Relay, members: Members) -> App {
    let started_at = unix_seconds();
    App {
        relay,
        members,
        // Routers of one cluster differ by process, runs of one router by time.
        id_stem: format!("{:x}{started_at:x}", std::process::id()).into(),
        cluster: cluster.into(),
        api_key: options.api_key.as_deref().map(Arc::from),
        started_at,
        ids: Arc::default(),
    }
}

async fn serve_http(listener: TcpListener, app: App, draining: CancellationToken) {
    let listener = listener.tap_io(|stream| {
        // A token must not wait for the acknowledgement of the last one.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let served =
        axum::serve(listener, api::routes(app)).with_graceful_shutdown(draining.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the HTTP server ended");
    }
}

async fn keep_up(metrics: Metrics) {
    let mut tick = interval(METRICS_UPKEEP);
    loop {
        tick.tick().await;
        metrics.upkeep();
    }
}

const DEFAULT_PORT: u16 = 8080;
const LAST_WORDS: Duration = Duration::from_secs(2);
const FAREWELL: Duration = Duration::from_millis(50);
const METRICS_UPKEEP: Duration = Duration::from_secs(5);
