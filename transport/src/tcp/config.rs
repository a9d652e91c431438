//! What a TCP transport is told when it is made.

use std::net::IpAddr;
use std::time::Duration;

use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::Trust;

/// What protects the bytes on their way.
#[derive(Clone, Debug)]
pub enum Security {
    /// TLS 1.3; both ends show a key that the other trusts.
    Tls {
        /// Who this host is.
        identity: Identity,
        /// Whose connections are opened and accepted. May change at any time; connections that exist stay.
        trust: Trust,
    },
    /// Nothing: whoever reaches the port is trusted with it, and whoever is on the way reads along. For links that are
    /// trusted as a whole, and for measurements.
    Plain,
}

/// How the system is asked to move bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// As `MLXCEL_TCP_DRIVER` says (`io-uring` or `poll`), else io_uring where the system allows it.
    #[default]
    Auto,
    /// Readiness: epoll, kqueue, or its like on Windows.
    Poll,
    /// Completion: io_uring, on Linux only.
    IoUring,
}

/// How a TCP transport behaves.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// What protects the bytes.
    pub security: Security,
    /// The address to listen at; all of the host's when `None`.
    pub bind: Option<IpAddr>,
    /// The port to listen at; 0 takes a free one.
    pub port: u16,
    /// Connections to each peer, 1 to 16. The end that wants more decides.
    pub rails: u16,
    /// How the system is asked.
    pub driver: Driver,
    /// How long a peer may be silent before it is lost.
    pub silence_limit: Duration,
}

impl TcpConfig {
    /// The usual settings with this protection.
    #[must_use]
    pub fn new(security: Security) -> Self {
        Self {
            security,
            bind: None,
            port: 0,
            rails: 2,
            driver: Driver::Auto,
            silence_limit: Duration::from_millis(900),
        }
    }

    /// The same, listening at this address only.
    #[must_use]
    pub fn bound_to(self, address: IpAddr) -> Self {
        Self { bind: Some(address), ..self }
    }
}

/// Why a TCP transport could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The address is not this host's, or the port is taken.
    #[error("cannot listen at {address}: {cause}; choose another address or port")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The system lacks something.
    #[error("cannot set up {what}: {cause}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The driver that was asked for does not work here.
    #[error("the system does not allow io_uring: {0}; choose the poll driver")]
    NoIoUring(std::io::Error),
    /// A peer has one to sixteen rails.
    #[error("a peer has 1 to {MAX_RAILS} rails, got {0}")]
    Rails(u16),
    /// The environment names an unknown driver.
    #[error("MLXCEL_TCP_DRIVER must be `io-uring` or `poll`, got `{0}`")]
    UnknownDriver(String),
}

/// Most connections to a peer.
pub(super) const MAX_RAILS: u16 = 16;
