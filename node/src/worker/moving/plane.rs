//! The worker's end of the data plane: one for the process, opened by the first move.

use std::sync::Arc;

use mlxcel_cluster_config::tls::Trust;
use mlxcel_cluster_config::{Fingerprint, Identity};
use mlxcel_protocol::v1::TransferEnd;
use mlxcel_transport::selection::{Offer, Policy, Selected};
use tracing::info;

use crate::data_plane::DataPlane;

/// Transports under a key of this process, open to the workers that moves name.
pub(super) struct Plane {
    key: Fingerprint,
    trust: Trust,
    pub(super) transport: Arc<Selected>,
}

impl Plane {
    pub(super) fn start() -> Result<Self, String> {
        let identity = Identity::generate().map_err(|error| error.to_string())?;
        let plane =
            DataPlane::start(&identity).map_err(|error| format!("cannot open the data plane: {error}"))?;
        let trust = plane.trust().clone();
        let transport = Arc::new(plane.selected(Policy::default()));
        Ok(Self { key: identity.fingerprint(), trust, transport })
    }

    /// Where others reach it.
    pub(super) fn end(&self) -> TransferEnd {
        let offer = serde_json::to_vec(&self.transport.offer()).expect("an offer is plain data");
        TransferEnd { fingerprint: self.key.to_string(), offer }
    }

    /// Trusts another worker; what it offers.
    pub(super) fn admit(&self, end: &TransferEnd) -> Result<Offer, String> {
        let key = end.fingerprint.parse().map_err(|_| "a worker's key is no fingerprint".to_owned())?;
        let offer: Offer = serde_json::from_slice(&end.offer)
            .map_err(|error| format!("a worker's offer is none: {error}"))?;
        if !self.trust.allows(key) {
            info!(peer = %offer.peer, "lets another worker in");
            self.trust.add(key);
        }
        Ok(offer)
    }
}
