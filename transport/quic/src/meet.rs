//! Who may open a link, and which of two connections carries it when both ends called at once.
//!
//! Both ends name their end of the link. An end that has lost the link begins a new one with a larger name; the other
//! end, whether it has noticed or not, then loses the old one first. A link has one connection: a second one is refused.

use std::sync::Arc;
use std::time::Instant;

use mlxcel_cluster_config::Fingerprint;
use mlxcel_transport::core::hello::{Answer, Hello, Refusal};
use mlxcel_transport::core::{Link, LinkConfig, RailId};
use mlxcel_transport::domain::Kick;
use mlxcel_transport::{Kind, PeerLoss};
use quinn::Connection;

use crate::books::{Books, Name, Peer, UNWANTED, Wakes};

/// Somebody who has said hello, over this connection.
pub(crate) struct Caller {
    pub(crate) hello: Hello,
    pub(crate) key: Fingerprint,
    pub(crate) connection: Connection,
}

/// Two ends that have said hello, over this connection.
pub(crate) struct Met {
    pub(crate) name: Name,
    /// The name of the peer's end.
    pub(crate) theirs: u64,
    /// The key that the peer has shown.
    pub(crate) key: Fingerprint,
    pub(crate) connection: Connection,
}

impl Books {
    /// What a caller is answered. If it is welcome its link is there, so that of two calls at once one is.
    pub(crate) fn judge(&mut self, caller: Caller, now: Instant) -> (Answer, Option<(Name, Arc<Wakes>)>) {
        let Caller { hello, key, connection } = caller;
        if let Some(refusal) = self.refusal(&hello, key) {
            return (Answer::Refused(refusal), None);
        }
        self.lose(hello.from, PeerLoss::Broken);
        let name = Name { peer: hello.from, ours: self.new_incarnation() };
        let wakes = self.link_up(Met { name, theirs: hello.incarnation, key, connection }, now);
        (Answer::Accepted { incarnation: name.ours, rails: 1 }, wakes.map(|wakes| (name, wakes)))
    }

    fn refusal(&self, hello: &Hello, key: Fingerprint) -> Option<Refusal> {
        if hello.to != self.domain.id() || hello.from == hello.to {
            return Some(Refusal::AnotherPeer);
        }
        let known = self.peers.get(&hello.from)?;
        // Of ends that name themselves after a connected peer, only those with its key are believed.
        if known.key != key || known.theirs == hello.incarnation {
            return Some(Refusal::Unwelcome);
        }
        (known.theirs > hello.incarnation).then_some(Refusal::Forgotten)
    }

    /// Both ends know each other; whom to wake for the link, unless there is one already.
    pub(crate) fn link_up(&mut self, met: Met, now: Instant) -> Option<Arc<Wakes>> {
        let Met { name, theirs, key, connection } = met;
        if self.peers.contains_key(&name.peer) {
            connection.close(UNWANTED, b"the peers are connected already");
            return None;
        }
        let config = LinkConfig { silence_limit: self.silence_limit, ..LinkConfig::default() };
        let mut link = Link::new(Arc::clone(&self.domain), name.peer, config, now);
        link.rail_up(RAIL, now);
        let wakes = Arc::<Wakes>::default();
        let peer = Peer { name, theirs, key, link, connection, wakes: Arc::clone(&wakes) };
        self.peers.insert(name.peer, peer);
        let kicked = Arc::clone(&wakes);
        let kick = Kick(Arc::new(move || kicked.control.notify_one()));
        self.domain.peer_connected(name.peer, Kind::Quic, kick);
        Some(wakes)
    }
}

/// The only connection of a link.
pub(crate) const RAIL: RailId = 0;
