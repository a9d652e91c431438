//! What an RDMA transport is told when it is made, and why it could not be.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mlxcel_transport::tcp::Security;

/// How an RDMA transport behaves.
#[derive(Clone, Debug)]
pub struct RdmaConfig {
    /// What protects the connection over which two ends meet: who may have a queue pair. Bytes that devices move are
    /// never protected.
    pub security: Security,
    /// The device to use, such as `mlx5_0`; the first that has a link when `None`.
    pub device: Option<String>,
    /// The address to listen at; the device's own where it has one, else all of the host's, when `None`.
    pub bind: Option<IpAddr>,
    /// The port to listen at; 0 takes a free one.
    pub port: u16,
    /// How long a peer may be silent before it is lost.
    pub silence_limit: Duration,
}

impl RdmaConfig {
    /// The usual settings with this protection.
    #[must_use]
    pub fn new(security: Security) -> Self {
        Self { security, device: None, bind: None, port: 0, silence_limit: Duration::from_millis(900) }
    }
}

/// Why this host has no RDMA.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The library that talks to devices is not installed.
    #[error("no libibverbs")]
    NoLibrary {
        /// What the system said.
        detail: String,
    },
    /// There is none, or not of the name that was asked for.
    #[error("no device")]
    NoDevice,
    /// None of the device's ports can be used.
    #[error("no link on {device}")]
    NoPort {
        /// The last device that was looked at.
        device: String,
    },
    /// The device cannot be opened.
    #[error("cannot open {name}: {cause}")]
    Device {
        /// Which.
        name: String,
        /// What the system said.
        cause: io::Error,
    },
}

/// Why an RDMA transport could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RdmaError {
    /// There is no RDMA here.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The address is not this host's, or the port is taken.
    #[error("cannot listen at {address}: {cause}; choose another address or port")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The system or the device lacks something.
    #[error("cannot set up {what}: {cause}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        cause: io::Error,
    },
}
