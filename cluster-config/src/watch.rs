//! A node's watch over routers that are visible but do not connect.
//!
//! Routers connect to nodes, so a node that waits cannot know why nothing comes. It therefore
//! calls a silent router itself, tells it its addresses, and reports what it learns.
//! Deterministic: events and `now` in, actions out; `node` owns the calls.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::discovery::{Peer, Role};
use crate::link::{ReportKind, Reported};
use crate::{ConnectError, Fingerprint, LinkCause, Report};

/// What the node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchConfig {
    /// The cluster that owns the node, if one does.
    pub cluster: Option<Fingerprint>,
    /// The protocol the node speaks.
    pub protocol_version: u32,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Discovery found a host, or a known one says something else.
    PeerFound(Peer),
    /// Discovery lost a host.
    PeerLost(Fingerprint),
    /// The node was claimed or forgot its cluster.
    ClaimChanged(Option<Fingerprint>),
    /// A router introduced itself and was accepted.
    RouterConnected(Fingerprint),
    /// That router's last connection ended.
    RouterDisconnected(Fingerprint),
    /// A router introduced itself and was refused.
    RouterRefused {
        /// The router's key, proved by TLS.
        id: Fingerprint,
        /// Its cluster's name for people.
        name: String,
        /// Why.
        cause: LinkCause,
    },
    /// A [`WatchAction::ProbeRouter`] ended.
    ProbeFinished {
        /// The router.
        id: Fingerprint,
        /// How.
        outcome: ProbeOutcome,
    },
}

/// What calling a router showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The router could not be called, or refused the call.
    Failed(ConnectError),
    /// The router answered that it is still trying to connect.
    Connecting,
    /// The router answered that it is connected.
    Connected,
    /// The router answered that it cannot connect, with its reason.
    RouterCannotConnect(String),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchAction {
    /// Call `Membership.Join` at the router, expecting its key, then hand in
    /// [`WatchEvent::ProbeFinished`]. At most one per router is under way.
    ProbeRouter {
        /// The key to expect.
        id: Fingerprint,
        /// The router's name for people.
        hostname: String,
        /// Where to try, most useful first.
        addresses: Vec<SocketAddr>,
    },
    /// Log this line for people.
    Report(Report),
}

/// The routers a node sees.
#[derive(Debug)]
pub struct VisibilityWatch {
    config: WatchConfig,
    routers: BTreeMap<Fingerprint, Seen>,
    connected: BTreeSet<Fingerprint>,
}

#[derive(Debug)]
struct Seen {
    peer: Peer,
    probe: Probe,
    reported: Reported,
}

/// The next call to a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    NotNeeded,
    At(Instant),
    UnderWay,
}

impl Probe {
    const fn due(self) -> Option<Instant> {
        match self {
            Self::At(due) => Some(due),
            Self::NotNeeded | Self::UnderWay => None,
        }
    }
}

impl VisibilityWatch {
    /// A node that sees no router yet.
    #[must_use]
    pub const fn new(config: WatchConfig) -> Self {
        Self { config, routers: BTreeMap::new(), connected: BTreeSet::new() }
    }

    /// Takes in what happened at `now`.
    #[must_use]
    pub fn handle(&mut self, event: WatchEvent, now: Instant) -> Vec<WatchAction> {
        match event {
            WatchEvent::PeerFound(peer) => self.found(peer, now),
            WatchEvent::PeerLost(id) => {
                self.routers.remove(&id);
                Vec::new()
            }
            WatchEvent::ClaimChanged(cluster) => {
                self.config.cluster = cluster;
                self.wait_for_all(now);
                Vec::new()
            }
            WatchEvent::RouterConnected(id) => self.router_connected(id),
            WatchEvent::RouterDisconnected(id) => {
                self.connected.remove(&id);
                self.wait_for_all(now);
                Vec::new()
            }
            WatchEvent::RouterRefused { id, name, cause } => self.refused(id, name, cause),
            WatchEvent::ProbeFinished { id, outcome } => self.probed(id, outcome, now),
        }
    }

    /// Does what is due at `now`; call at [`Self::next_deadline`].
    #[must_use]
    pub fn tick(&mut self, now: Instant) -> Vec<WatchAction> {
        let due: Vec<_> = self
            .routers
            .iter()
            .filter(|(_, seen)| seen.probe.due().is_some_and(|due| due <= now))
            .map(|(id, _)| *id)
            .collect();
        due.into_iter().filter_map(|id| self.due(id)).collect()
    }

    /// When [`Self::tick`] has something to do next, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.routers.values().filter_map(|seen| seen.probe.due()).min()
    }

    fn found(&mut self, peer: Peer, now: Instant) -> Vec<WatchAction> {
        if peer.role != Role::Router {
            return Vec::new();
        }
        let id = peer.id;
        let ours = self.config.protocol_version;
        let mismatch = LinkCause::check_versions(ours, peer.protocol_version).err();
        let seen = self.routers.entry(id).or_insert_with(|| Seen {
            peer: peer.clone(),
            probe: Probe::NotNeeded,
            reported: Reported::default(),
        });
        seen.peer = peer;
        if let Some(cause) = mismatch {
            seen.probe = Probe::NotNeeded;
            let relevant = self.config.cluster.is_none_or(|own| own == id);
            return if relevant { self.report(id, None, cause) } else { Vec::new() };
        }
        if seen.probe == Probe::NotNeeded && !self.connected.contains(&id) {
            seen.probe = Probe::At(now + PROBE_AFTER);
        }
        Vec::new()
    }

    fn router_connected(&mut self, id: Fingerprint) -> Vec<WatchAction> {
        self.connected.insert(id);
        let Some(seen) = self.routers.get_mut(&id) else {
            return Vec::new();
        };
        seen.probe = Probe::NotNeeded;
        if !seen.reported.recovered() {
            return Vec::new();
        }
        vec![WatchAction::Report(Report {
            id,
            hostname: seen.peer.hostname.clone(),
            role: Role::Router,
            kind: ReportKind::Recovered,
        })]
    }

    fn refused(&mut self, id: Fingerprint, name: String, cause: LinkCause) -> Vec<WatchAction> {
        if self.routers.contains_key(&id) {
            return self.report(id, None, cause);
        }
        // Not visible, so nothing is remembered: a stranger that keeps calling is reported each
        // time it does, and routers call rarely once refused.
        vec![WatchAction::Report(Report {
            id,
            hostname: name,
            role: Role::Router,
            kind: ReportKind::Failed(ConnectError { address: None, cause }),
        })]
    }

    fn probed(&mut self, id: Fingerprint, outcome: ProbeOutcome, now: Instant) -> Vec<WatchAction> {
        let Some(seen) = self.routers.get_mut(&id) else {
            return Vec::new();
        };
        if self.connected.contains(&id) {
            seen.probe = Probe::NotNeeded;
            return Vec::new();
        }
        let again = match outcome {
            ProbeOutcome::Connecting => ASK_AGAIN_SOON,
            _ => ASK_AGAIN,
        };
        seen.probe = Probe::At(now + again);
        let address = seen.peer.addresses.first().copied();
        match outcome {
            ProbeOutcome::Connecting | ProbeOutcome::Connected => Vec::new(),
            ProbeOutcome::Failed(error) => self.report(id, error.address, error.cause),
            ProbeOutcome::RouterCannotConnect(reason) => {
                self.report(id, address, LinkCause::ReportedByPeer { reason })
            }
        }
    }

    /// What to do about a router that stayed silent.
    fn due(&mut self, id: Fingerprint) -> Option<WatchAction> {
        let connected_somewhere = !self.connected.is_empty();
        let seen = self.routers.get_mut(&id)?;
        seen.probe = Probe::NotNeeded;
        match self.config.cluster {
            Some(owner) if owner != id => {
                if connected_somewhere {
                    return None;
                }
                let cause = LinkCause::ClaimedByOther { owner, caller: id };
                self.report(id, None, cause).pop()
            }
            _ => {
                seen.probe = Probe::UnderWay;
                Some(WatchAction::ProbeRouter {
                    id,
                    hostname: seen.peer.hostname.clone(),
                    addresses: seen.peer.addresses.clone(),
                })
            }
        }
    }

    fn report(&mut self, id: Fingerprint, address: Option<SocketAddr>, cause: LinkCause) -> Vec<WatchAction> {
        let Some(seen) = self.routers.get_mut(&id) else {
            return Vec::new();
        };
        if !seen.reported.is_news(&cause) {
            return Vec::new();
        }
        vec![WatchAction::Report(Report {
            id,
            hostname: seen.peer.hostname.clone(),
            role: Role::Router,
            kind: ReportKind::Failed(ConnectError { address, cause }),
        })]
    }

    /// Every router that is not connected gets its time to connect.
    fn wait_for_all(&mut self, now: Instant) {
        let ours = self.config.protocol_version;
        for (id, seen) in &mut self.routers {
            let waiting = seen.probe != Probe::UnderWay && !self.connected.contains(id);
            if waiting && seen.peer.protocol_version == ours {
                seen.probe = Probe::At(now + PROBE_AFTER);
            }
        }
    }
}

/// How long a router that is visible may stay silent. With [`crate::CONNECT_TIMEOUT`] for the
/// call, the cause is named within ten seconds.
pub const PROBE_AFTER: Duration = Duration::from_secs(5);
const ASK_AGAIN_SOON: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
