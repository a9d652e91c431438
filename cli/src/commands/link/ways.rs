//! The transports of this host, and why others are not there.

use std::sync::Arc;

use anyhow::Result;
use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::Trust;
use mlxcel_transport::selection::{Offer, Way};
use mlxcel_transport::tcp::{Security, Tcp, TcpConfig};
use mlxcel_transport::{Domain, Kind, Transport};

/// What this host has.
pub(super) struct Ways {
    /// Whom it lets in.
    pub(super) trust: Trust,
    transports: Vec<Arc<dyn Transport>>,
    missing: Vec<Way>,
}

impl Ways {
    pub(super) fn start(identity: &Identity) -> Result<Self> {
        let (trust, domain) = (Trust::default(), Domain::new());
        let security = Security::Tls { identity: identity.clone(), trust: trust.clone() };
        let mut transports: Vec<Arc<dyn Transport>> =
            vec![Arc::new(Tcp::new(&domain, TcpConfig::new(security))?)];
        let missing = |kind| Way::Missing { kind, reason: "not in this build".to_owned() };
        #[cfg_attr(feature = "quic-distributed", expect(unused_mut, reason = "QUIC may be missing"))]
        let mut absent = vec![missing(Kind::Rdma)];
        #[cfg(feature = "quic-distributed")]
        {
            use mlxcel_transport_quic::{Quic, QuicConfig};
            transports.push(Arc::new(Quic::new(&domain, &QuicConfig::new(identity.clone(), trust.clone()))?));
        }
        #[cfg(not(feature = "quic-distributed"))]
        absent.push(missing(Kind::Quic));
        Ok(Self { trust, transports, missing: absent })
    }

    pub(super) fn offer(&self) -> Offer {
        let ready = self.transports.iter().map(|transport| Way::of(&**transport));
        Offer { peer: self.domain().id(), ways: ready.chain(self.missing.iter().cloned()).collect() }
    }

    pub(super) fn domain(&self) -> &Arc<Domain> {
        self.any().domain()
    }

    /// Regions belong to all of them.
    pub(super) fn any(&self) -> &Arc<dyn Transport> {
        self.transports.first().expect("TCP is always there")
    }

    /// The transport of a kind that was offered.
    pub(super) fn of(&self, kind: Kind) -> &Arc<dyn Transport> {
        let of_kind = self.transports.iter().find(|transport| transport.kind() == kind);
        of_kind.expect("only what is offered is chosen")
    }
}
