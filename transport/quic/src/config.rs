//! What a QUIC transport is told when it is made.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::Trust;

/// How a QUIC transport behaves. Its connections are always protected: both ends show a key that the other trusts.
#[derive(Clone, Debug)]
pub struct QuicConfig {
    /// Who this host is.
    pub identity: Identity,
    /// Whose connections are opened and accepted. May change at any time; connections that exist stay.
    pub trust: Trust,
    /// The address to listen at; all of the host's when `None`.
    pub bind: Option<IpAddr>,
    /// The port to listen at; 0 takes a free one.
    pub port: u16,
    /// How long a peer may be silent before it is lost.
    pub silence_limit: Duration,
}

impl QuicConfig {
    /// The usual settings for this host and these peers.
    #[must_use]
    pub fn new(identity: Identity, trust: Trust) -> Self {
        Self { identity, trust, bind: None, port: 0, silence_limit: Duration::from_millis(900) }
    }

    /// The same, listening at this address only.
    #[must_use]
    pub fn bound_to(self, address: IpAddr) -> Self {
        Self { bind: Some(address), ..self }
    }
}

/// Why a QUIC transport could not be made, or moved to another address.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The address is not this host's, or the port is taken.
    #[error("cannot listen at {address}: {cause}; choose another address or port")]
    Listen {
        /// Where.
        address: SocketAddr,
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
}
