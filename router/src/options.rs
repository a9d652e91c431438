//! What a router is told at its start, and why it may refuse to.
//!
//! Plain data and its rules; opens nothing. `start` acts on it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use mlxcel_cluster_config::IdentityError;
use mlxcel_cluster_config::discovery::hostname;

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
    /// One of these, clients of `/v1` must send as `Authorization: Bearer KEY`; nothing where there are none. Where there are several, their
    /// requests get equal shares.
    pub api_keys: Vec<String>,
    /// Most requests that wait for room on a node, over all models.
    pub queue: usize,
    /// Most of them for one model.
    pub queue_per_model: usize,
    /// Ranks of each stage of replicas of models that no device holds alone; as planned when absent.
    pub layout: Option<Vec<usize>>,
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
            api_keys: Vec::new(),
            queue: 1024,
            queue_per_model: 512,
            layout: None,
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
    /// The queue is of no size that makes sense.
    #[error(
        "the queue for one model must hold at least 1 request and no more than the whole queue, got {per_model} of {queue}"
    )]
    Queue {
        /// Of all models.
        queue: usize,
        /// Of one.
        per_model: usize,
    },
    /// The metrics could not be set up.
    #[error("cannot set up metrics: {0}")]
    Metrics(String),
}

impl StartError {
    /// The error for an address that cannot be listened on.
    pub(crate) fn listen(address: SocketAddr, purpose: &'static str, cause: std::io::Error) -> Self {
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
        Self::Listen { address, purpose, cause, mend }
    }
}

/// Checks what can be checked before anything is opened.
pub(crate) fn check(options: &RouterOptions) -> Result<(), StartError> {
    if options.queue_per_model == 0 || options.queue < options.queue_per_model {
        return Err(StartError::Queue { queue: options.queue, per_model: options.queue_per_model });
    }
    if options.api_keys.iter().any(String::is_empty) {
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

const DEFAULT_PORT: u16 = 8080;
