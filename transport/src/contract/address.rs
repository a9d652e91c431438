//! Who a peer is and where it is reached.
//!
//! Addresses travel over the control plane, which also says who may be trusted; nothing here is resolved or dialled.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One process's end of the data plane, for as long as the process lives: chosen at random when it starts, so that
/// what was meant for a process that died never reaches the one that took its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerId(u128);

impl PeerId {
    /// A new name, unlike any other.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The name that travels as these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// How the name travels.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

/// A way of moving bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Kind {
    /// Copies between threads of one process.
    InProcess = 1,
    /// TCP sockets.
    Tcp = 2,
    /// QUIC connections.
    Quic = 3,
    /// Verbs: InfiniBand, RoCE.
    Rdma = 4,
}

impl Kind {
    /// Every kind, the one that is fastest where it exists first.
    pub const ALL: [Self; 4] = [Self::InProcess, Self::Rdma, Self::Tcp, Self::Quic];

    /// The kind that travels as `code`.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// As people and logs write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Rdma => "rdma",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a transport listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Which transport listens there.
    pub kind: Kind,
    /// Its socket; for RDMA the one over which queue pairs are agreed on. In-process addresses have port 0.
    pub socket: SocketAddr,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.socket)
    }
}
