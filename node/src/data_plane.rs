//! This process's ends of the data plane: every transport that works here, and why others do not.

use std::sync::Arc;

use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::Trust;
use mlxcel_transport::selection::{Offer, Policy, Selected, Way};
use mlxcel_transport::tcp::{Security, Tcp, TcpConfig};
use mlxcel_transport::{Domain, Kind, Transport};

/// Why the data plane could not be opened.
pub type DataPlaneError = Box<dyn std::error::Error + Send + Sync>;

/// Transports of one domain, encrypted, open to a set of keys.
pub struct DataPlane {
    trust: Trust,
    transports: Vec<Arc<dyn Transport>>,
    missing: Vec<Way>,
}

impl DataPlane {
    /// Starts every transport that this build has. Nobody is trusted yet.
    ///
    /// # Errors
    /// When a transport that should work does not start.
    pub fn start(identity: &Identity) -> Result<Self, DataPlaneError> {
        let (trust, domain) = (Trust::default(), Domain::new());
        let security = Security::Tls { identity: identity.clone(), trust: trust.clone() };
        let mut transports: Vec<Arc<dyn Transport>> =
            vec![Arc::new(Tcp::new(&domain, TcpConfig::new(security.clone()))?)];
        let absent = |kind, reason: &str| Way::Missing { kind, reason: reason.to_owned() };
        let mut missing = Vec::new();
        match rdma(&domain, security) {
            Ok(rdma) => transports.push(rdma),
            Err(reason) => missing.push(absent(Kind::Rdma, &reason)),
        }
        #[cfg(feature = "quic-distributed")]
        {
            use mlxcel_transport_quic::{Quic, QuicConfig};
            transports.push(Arc::new(Quic::new(&domain, &QuicConfig::new(identity.clone(), trust.clone()))?));
        }
        #[cfg(not(feature = "quic-distributed"))]
        missing.push(absent(Kind::Quic, NOT_BUILT));
        Ok(Self { trust, transports, missing })
    }

    /// Whom it lets in.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// What to tell peers.
    #[must_use]
    pub fn offer(&self) -> Offer {
        let ready = self.transports.iter().map(|transport| Way::of(&**transport));
        Offer { peer: self.domain().id(), ways: ready.chain(self.missing.iter().cloned()).collect() }
    }

    /// The books that all transports share.
    #[must_use]
    pub fn domain(&self) -> &Arc<Domain> {
        self.any().domain()
    }

    /// One of them: regions belong to all.
    #[must_use]
    pub fn any(&self) -> &Arc<dyn Transport> {
        self.transports.first().expect("TCP is always there")
    }

    /// The transport of a kind that was offered.
    ///
    /// # Panics
    /// When it was not.
    #[must_use]
    pub fn of(&self, kind: Kind) -> &Arc<dyn Transport> {
        let of_kind = self.transports.iter().find(|transport| transport.kind() == kind);
        of_kind.expect("only what is offered is chosen")
    }

    /// All of them as one, which goes each peer's best way.
    #[must_use]
    pub fn selected(self, policy: Policy) -> Selected {
        Selected::new(self.transports, self.missing, policy)
    }
}

/// RDMA, or why there is none.
#[cfg(all(feature = "rdma", target_os = "linux"))]
fn rdma(domain: &Arc<Domain>, security: Security) -> Result<Arc<dyn Transport>, String> {
    use mlxcel_transport_rdma::{Rdma, RdmaConfig};
    match Rdma::new(domain, &RdmaConfig::new(security)) {
        Ok(rdma) => Ok(Arc::new(rdma)),
        Err(reason) => Err(reason.to_string()),
    }
}

#[cfg(not(all(feature = "rdma", target_os = "linux")))]
fn rdma(_: &Arc<Domain>, _: Security) -> Result<Arc<dyn Transport>, String> {
    Err(if cfg!(feature = "rdma") { "on Linux only" } else { NOT_BUILT }.to_owned())
}

#[cfg(not(all(feature = "rdma", feature = "quic-distributed", target_os = "linux")))]
const NOT_BUILT: &str = "not in this build";
