//! Carries out what `cluster_config::membership` decides: connects, retries, reports.
//!
//! Owns the tasks and the clock; the decisions are the state machine's. What a connected node says
//! goes to the roster.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlxcel_cluster_config::discovery::{DiscoveryEvent, Peer};
use mlxcel_cluster_config::link::ReportKind;
use mlxcel_cluster_config::membership::{
    LinkState, Membership, MembershipAction, MembershipConfig, MembershipEvent,
};
use mlxcel_cluster_config::{ConnectError, Fingerprint, Report};
use mlxcel_protocol::PROTOCOL_VERSION;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::link::{self, Introduction};
use super::roster::{Roster, now};

/// The nodes this router knows of. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Members(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    membership: Mutex<Membership>,
    /// Addresses given to dial whose last try failed before any key was seen.
    undialled: Mutex<Vec<Unreachable>>,
    /// The next deadline may have changed.
    changed: Notify,
    introduction: Introduction,
    roster: Roster,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A node that is known of and not connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreachable {
    /// Its key's fingerprint; empty where not even that is known.
    pub(crate) id: String,
    /// Its name for people.
    pub(crate) hostname: String,
    /// Where it was tried.
    pub(crate) address: String,
    /// Why it failed, with the mend.
    pub(crate) cause: String,
}

impl Members {
    pub(crate) fn new(introduction: Introduction, roster: Roster, stop: CancellationToken) -> Self {
        let membership = Membership::new(MembershipConfig {
            cluster: introduction.identity.fingerprint(),
            protocol_version: PROTOCOL_VERSION,
        });
        let members = Self(Arc::new(Shared {
            membership: Mutex::new(membership),
            undialled: Mutex::default(),
            changed: Notify::new(),
            introduction,
            roster,
            tasks: TaskTracker::new(),
            stop,
        }));
        members.spawn(members.clone().keep_time());
        members
    }

    /// How this router introduces itself.
    pub(crate) fn introduction(&self) -> &Introduction {
        &self.0.introduction
    }

    /// The nodes it is connected to.
    pub(crate) fn roster(&self) -> &Roster {
        &self.0.roster
    }

    /// Runs a task until it ends or the router stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Ends when every task has, after the router was stopped.
    pub(crate) async fn stopped(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Takes in an event and does what follows from it.
    pub(crate) fn handle(&self, event: MembershipEvent) {
        let actions = self.membership().handle(event, now());
        self.act(actions);
    }

    /// A node asked to be joined. Says how the link to it is, now that it has.
    pub(crate) fn join(&self, peer: Peer) -> Option<LinkState> {
        let id = peer.id;
        self.handle(MembershipEvent::JoinRequested(peer));
        self.membership().link(&id).cloned()
    }

    /// Takes in what discovery hears, until it ends.
    pub(crate) async fn listen(self, mut events: mpsc::UnboundedReceiver<DiscoveryEvent>) {
        while let Some(event) = events.recv().await {
            self.handle(match event {
                DiscoveryEvent::Found(peer) | DiscoveryEvent::Updated(peer) => {
                    MembershipEvent::PeerFound(peer)
                }
                DiscoveryEvent::Lost(id) => MembershipEvent::PeerLost(id),
            });
        }
    }

    /// Remembers why an address given to dial does not work; forgets it when `error` is none.
    pub(crate) fn dialled(&self, address: &str, error: Option<&ConnectError>) {
        let mut undialled = lock(&self.0.undialled);
        undialled.retain(|u| u.address != address);
        undialled.extend(error.map(|error| Unreachable {
            id: String::new(),
            hostname: String::new(),
            address: address.to_owned(),
            cause: error.cause.to_string(),
        }));
    }

    /// Every node that is known of and whose link does not work.
    pub(crate) fn unreachable(&self) -> Vec<Unreachable> {
        let mut all = lock(&self.0.undialled).clone();
        let membership = self.membership();
        all.extend(membership.nodes().filter_map(|(peer, link)| match link {
            LinkState::Failed(error) | LinkState::Connecting { last: Some(error) } => Some(Unreachable {
                id: peer.id.to_string(),
                hostname: peer.hostname.clone(),
                address: error.address.map_or_else(String::new, |a| a.to_string()),
                cause: error.cause.to_string(),
            }),
            LinkState::Connecting { last: None } | LinkState::Connected => None,
        }));
        all
    }

    fn act(&self, actions: Vec<MembershipAction>) {
        for action in actions {
            match action {
                MembershipAction::Connect { id, addresses, .. } => {
                    self.spawn(self.clone().connect(id, addresses));
                }
                MembershipAction::Report(report) => tell(&report),
            }
        }
        self.0.changed.notify_one();
    }

    async fn connect(self, id: Fingerprint, addresses: Vec<SocketAddr>) {
        match link::open(&self.0.introduction, &addresses, id).await {
            Err(error) => self.handle(MembershipEvent::ConnectFailed { id, error }),
            Ok(node) => {
                tracing::info!(node = %id.short(), "connected to node");
                self.handle(MembershipEvent::ConnectSucceeded { id });
                let cause = link::follow(&self.0.roster, node).await;
                tracing::warn!(node = %id.short(), %cause, "lost node");
                self.handle(MembershipEvent::Disconnected { id });
            }
        }
    }

    /// Lets the state machine do what is due, when it is.
    async fn keep_time(self) {
        loop {
            let deadline = self.membership().next_deadline();
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {
                    let actions = self.membership().tick(now());
                    self.act(actions);
                }
                () = self.0.changed.notified() => {}
            }
        }
    }

    fn membership(&self) -> MutexGuard<'_, Membership> {
        lock(&self.0.membership)
    }
}

fn tell(report: &Report) {
    match &report.kind {
        ReportKind::Failed(_) => tracing::warn!("{report}"),
        ReportKind::Recovered => tracing::info!("{report}"),
    }
}

/// Every change under these locks is one call, so a panic elsewhere leaves nothing half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
