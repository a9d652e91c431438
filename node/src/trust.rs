//! Whom the node obeys.
//!
//! Keeps the claim and applies `cluster_config::claim`'s decision to it, on disk first. Knows
//! nothing of connections: `service` asks, `registration` hears of every change.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mlxcel_cluster_config::claim::{Claim, ClaimError, Decision, Hello, decide};
use mlxcel_cluster_config::watch::WatchEvent;
use mlxcel_cluster_config::{Fingerprint, LinkCause};
use tokio::sync::mpsc;
use tracing::info;

pub(crate) struct Trust {
    /// Where the claim is kept.
    dir: PathBuf,
    token: Option<String>,
    own: Fingerprint,
    claim: Mutex<Claim>,
    events: mpsc::UnboundedSender<WatchEvent>,
}

impl Trust {
    /// Reads the claim kept in `dir`; `events` hears of claims, connections and refusals.
    pub(crate) fn load(
        dir: PathBuf,
        token: Option<String>,
        own: Fingerprint,
        events: mpsc::UnboundedSender<WatchEvent>,
    ) -> Result<Self, ClaimError> {
        let claim = Mutex::new(Claim::load(&dir)?);
        Ok(Self { dir, token, own, claim, events })
    }

    /// The node's own key.
    pub(crate) fn own(&self) -> Fingerprint {
        self.own
    }

    pub(crate) fn cluster(&self) -> Option<Fingerprint> {
        self.lock().cluster()
    }

    /// Judges an introduction; true when it claimed the node.
    ///
    /// # Errors
    /// Why the caller is turned away.
    pub(crate) fn introduce(&self, hello: &Hello<'_>) -> Result<bool, LinkCause> {
        let mut claim = self.lock();
        match decide(&claim, self.token.as_deref(), hello, self.own) {
            Decision::Accept => Ok(false),
            Decision::ClaimAndAccept(new) => {
                new.save(&self.dir).map_err(|error| LinkCause::CallFailed { detail: error.to_string() })?;
                *claim = new;
                info!(node = %self.own, cluster = %hello.caller, name = hello.cluster_name, "claimed by cluster");
                self.tell(WatchEvent::ClaimChanged(Some(hello.caller)));
                Ok(true)
            }
            Decision::Refuse(reason) => Err(reason.into()),
        }
    }

    /// Whether a caller may do more than introduce itself. With a token, the claim alone is not
    /// enough: the caller must have proved the token on this connection.
    pub(crate) fn admits(&self, caller: Fingerprint, introduced: bool) -> bool {
        self.cluster() == Some(caller) && (introduced || self.token.is_none())
    }

    pub(crate) fn tell(&self, event: WatchEvent) {
        // Nobody listens once the node is ending.
        let _ = self.events.send(event);
    }

    /// A claim is replaced whole, so it stays whole even if a holder panicked.
    fn lock(&self) -> MutexGuard<'_, Claim> {
        self.claim.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
