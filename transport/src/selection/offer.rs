//! What a peer says of the ways it can be reached.
//!
//! Made from the transports that were started, and from why others were not; serialised by the control plane.

use serde::{Deserialize, Serialize};

use crate::contract::{Address, Kind, PeerId, Transport};

/// How a peer can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Who it is.
    pub peer: PeerId,
    /// A way of each kind, those that do not work here included.
    pub ways: Vec<Way>,
}

/// A way of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// It works.
    Ready {
        /// Which.
        kind: Kind,
        /// Where it listens.
        addresses: Vec<Address>,
        /// Whether bytes are encrypted on their way.
        encrypted: bool,
        /// Paths that it stripes over.
        rails: usize,
    },
    /// It does not.
    Missing {
        /// Which.
        kind: Kind,
        /// Why: `no device`, `not built in`.
        reason: String,
    },
}

impl Way {
    /// The way of a transport that was started.
    #[must_use]
    pub fn of(transport: &dyn Transport) -> Self {
        let caps = transport.caps();
        let (kind, addresses) = (transport.kind(), transport.addresses());
        Self::Ready { kind, addresses, encrypted: caps.encrypted, rails: caps.rails }
    }

    /// Which way it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Ready { kind, .. } | Self::Missing { kind, .. } => *kind,
        }
    }
}

impl Offer {
    /// The way of a kind, if the peer says anything of it.
    #[must_use]
    pub fn way(&self, kind: Kind) -> Option<&Way> {
        self.ways.iter().find(|way| way.kind() == kind)
    }
}
