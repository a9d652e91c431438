//! Which nodes a router connects to, when, and what it reports.
//!
//! Deterministic: events and `now` in, actions out; `router` owns sockets and clock and carries
//! the actions out. Knows nothing of models or requests.
//!
//! A node that is cut off is tried again, every second if it served until lately, else ever more rarely, for as long as it is announced and
//! ten minutes beyond, so that it is found when it returns.

mod backoff;
mod entry;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use crate::discovery::{Peer, Role};
use crate::{ConnectError, Fingerprint, LinkCause, Report};
use entry::Entry;

/// What the router is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MembershipConfig {
    /// Fingerprint of the router's cluster key.
    pub cluster: Fingerprint,
    /// The protocol the router speaks.
    pub protocol_version: u32,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipEvent {
    /// Discovery found a host, or a known one says something else.
    PeerFound(Peer),
    /// Discovery lost a host.
    PeerLost(Fingerprint),
    /// A node asked over TLS to be joined; `id` is the key TLS proved, `addresses` what it gave,
    /// put through [`crate::address::order`].
    JoinRequested(Peer),
    /// A [`MembershipAction::Connect`] ended well: the node answered the introduction.
    ConnectSucceeded {
        /// The node.
        id: Fingerprint,
    },
    /// A [`MembershipAction::Connect`] failed, or the node refused the introduction.
    ConnectFailed {
        /// The node.
        id: Fingerprint,
        /// Where and why.
        error: ConnectError,
    },
    /// A connection that had succeeded ended.
    Disconnected {
        /// The node.
        id: Fingerprint,
    },
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipAction {
    /// Connect to the node, expecting its key, and introduce the router; then hand in
    /// [`MembershipEvent::ConnectSucceeded`] or [`MembershipEvent::ConnectFailed`]. At most one
    /// per node is under way.
    Connect {
        /// The key to expect.
        id: Fingerprint,
        /// The node's name for people.
        hostname: String,
        /// Where to try, most useful first.
        addresses: Vec<SocketAddr>,
    },
    /// Log this line for people.
    Report(Report),
}

/// How the link to a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// An attempt is under way; `last` is how the one before it failed.
    Connecting {
        /// The last failure, if there was one since the link last worked.
        last: Option<ConnectError>,
    },
    /// The link works.
    Connected,
    /// The link does not work; it is tried again later unless the cause needs someone to act.
    Failed(ConnectError),
}

/// The nodes a router knows.
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    nodes: BTreeMap<Fingerprint, Entry>,
}

impl Membership {
    /// A router that knows no node yet.
    #[must_use]
    pub const fn new(config: MembershipConfig) -> Self {
        Self { config, nodes: BTreeMap::new() }
    }

    /// Takes in what happened at `now`. Events about unknown nodes change nothing.
    #[must_use]
    pub fn handle(&mut self, event: MembershipEvent, now: Instant) -> Vec<MembershipAction> {
        match event {
            MembershipEvent::PeerFound(peer) => self.seen(peer, Seen::Announced, now),
            MembershipEvent::JoinRequested(peer) => self.seen(peer, Seen::Joining, now),
            MembershipEvent::PeerLost(id) => self.with(id, |entry| {
                entry.lost(now);
                Vec::new()
            }),
            MembershipEvent::ConnectSucceeded { id } => self.with(id, |entry| entry.connected(now)),
            MembershipEvent::ConnectFailed { id, error } => self.with(id, |entry| entry.failed(error, now)),
            MembershipEvent::Disconnected { id } => self.with(id, |entry| entry.disconnected(now)),
        }
    }

    /// Does what is due at `now`; call at [`Self::next_deadline`].
    #[must_use]
    pub fn tick(&mut self, now: Instant) -> Vec<MembershipAction> {
        self.nodes.retain(|_, entry| !entry.forgotten(now));
        self.nodes.values_mut().flat_map(|entry| entry.tick(now)).collect()
    }

    /// When [`Self::tick`] has something to do next, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.nodes.values().filter_map(Entry::next_deadline).min()
    }

    /// How the link to a node is; `None` for an unknown node. For a `JoinReply`, ask before
    /// handing in [`MembershipEvent::JoinRequested`] or after: the last failure is in both.
    #[must_use]
    pub fn link(&self, id: &Fingerprint) -> Option<&LinkState> {
        self.nodes.get(id).map(Entry::link)
    }

    /// Every known node with the state of its link.
    pub fn nodes(&self) -> impl Iterator<Item = (&Peer, &LinkState)> {
        self.nodes.values().map(|entry| (entry.peer(), entry.link()))
    }

    fn seen(&mut self, peer: Peer, how: Seen, now: Instant) -> Vec<MembershipAction> {
        if peer.role != Role::Node {
            return Vec::new();
        }
        let obstacle = self.obstacle(&peer);
        match self.nodes.get_mut(&peer.id) {
            Some(entry) => entry.seen_again(peer, how, obstacle, now),
            None => {
                let id = peer.id;
                let (entry, actions) = Entry::new(peer, how, obstacle, now);
                self.nodes.insert(id, entry);
                actions
            }
        }
    }

    /// What makes an attempt pointless, judged by the announcement alone.
    fn obstacle(&self, peer: &Peer) -> Option<LinkCause> {
        let ours = self.config.protocol_version;
        if let Err(mismatch) = LinkCause::check_versions(ours, peer.protocol_version) {
            return Some(mismatch);
        }
        peer.cluster
            .filter(|owner| *owner != self.config.cluster)
            .map(|owner| LinkCause::ClaimedByOther { owner, caller: self.config.cluster })
    }

    fn with(
        &mut self,
        id: Fingerprint,
        act: impl FnOnce(&mut Entry) -> Vec<MembershipAction>,
    ) -> Vec<MembershipAction> {
        self.nodes.get_mut(&id).map_or_else(Vec::new, act)
    }
}

/// How the router came to know of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// By multicast DNS, which tells when it is gone.
    Announced,
    /// By its own request to be joined, which it repeats.
    Joining,
}

#[cfg(test)]
mod tests;
