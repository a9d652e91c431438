//! Copies between domains of one process, in the caller's thread.
//!
//! For ranks that are threads of one process, and for tests of whatever is built on the contract: a `Network` is what
//! its endpoints can reach. There is nothing to wait for but room for messages, so there is no thread.

mod endpoint;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use crate::contract::PeerId;
use crate::domain::Domain;

pub use endpoint::InProcess;

/// The endpoints that can reach each other.
#[derive(Debug, Default)]
pub struct Network {
    endpoints: RwLock<HashMap<PeerId, Weak<InProcess>>>,
}

impl Network {
    /// A network without endpoints.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// An endpoint with a domain of its own.
    #[must_use]
    pub fn endpoint(self: &Arc<Self>) -> Arc<InProcess> {
        self.endpoint_of(Domain::new())
    }

    /// An endpoint of a domain, which may have other transports too.
    #[must_use]
    pub fn endpoint_of(self: &Arc<Self>, domain: Arc<Domain>) -> Arc<InProcess> {
        let endpoint = Arc::new(InProcess::new(Arc::clone(self), domain));
        self.endpoints.write().insert(endpoint.id(), Arc::downgrade(&endpoint));
        endpoint
    }

    fn find(&self, peer: PeerId) -> Option<Arc<InProcess>> {
        self.endpoints.read().get(&peer)?.upgrade()
    }

    fn remove(&self, peer: PeerId) {
        self.endpoints.write().remove(&peer);
    }
}

#[cfg(test)]
mod tests;
