//! The links of a transport, each with the connection that carries it: what one lock guards.
//!
//! A link lives and dies with its one connection, which QUIC keeps alive through losses and changes of address. What is
//! said on a link is `mlxcel_transport::core`'s affair; who may open one `meet`'s.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mlxcel_cluster_config::Fingerprint;
use mlxcel_transport::core::{Link, LinkEvent};
use mlxcel_transport::{Domain, OpError, PeerId, PeerLoss, Stats};
use quinn::{Connection, VarInt};
use tokio::sync::Notify;

/// Which link, of all there have been: our end's name tells those to one peer apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) peer: PeerId,
    pub(crate) ours: u64,
}

/// Whom to wake when a link has something to send.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    /// Who sends frames without payload.
    pub(crate) control: Notify,
    /// Who sends those with payload.
    pub(crate) load: Notify,
}

/// A peer that is connected.
pub(crate) struct Peer {
    pub(crate) name: Name,
    /// The name of the peer's end.
    pub(crate) theirs: u64,
    /// The key that the peer has shown.
    pub(crate) key: Fingerprint,
    pub(crate) link: Link,
    pub(crate) connection: Connection,
    pub(crate) wakes: Arc<Wakes>,
}

/// All links.
pub(crate) struct Books {
    pub(crate) domain: Arc<Domain>,
    pub(crate) silence_limit: Duration,
    pub(crate) peers: HashMap<PeerId, Peer>,
    /// How many names our ends of links have had.
    incarnations: u64,
    /// What links that are no more did.
    past: Stats,
}

impl Books {
    pub(crate) fn new(domain: &Arc<Domain>, silence_limit: Duration) -> Self {
        let domain = Arc::clone(domain);
        Self { domain, silence_limit, peers: HashMap::new(), incarnations: 0, past: Stats::default() }
    }

    /// A name for our end of a link, larger than all before.
    pub(crate) const fn new_incarnation(&mut self) -> u64 {
        self.incarnations += 1;
        self.incarnations
    }

    /// Has the link to a peer do something; what that was, if there is a link.
    pub(crate) fn ask<R>(&mut self, peer: PeerId, ask: impl FnOnce(&mut Link) -> R) -> Option<R> {
        let answer = ask(&mut self.peers.get_mut(&peer)?.link);
        self.settle(peer);
        Some(answer)
    }

    /// As [`ask`](Self::ask), of this link and none that came after it.
    pub(crate) fn ask_of<R>(&mut self, name: Name, ask: impl FnOnce(&mut Link) -> R) -> Option<R> {
        self.peers.get(&name.peer).filter(|peer| peer.name == name)?;
        self.ask(name.peer, ask)
    }

    /// Has the link to a peer start an operation, which ends at once if there is no link.
    pub(crate) fn start(
        &mut self,
        peer: PeerId,
        done: mlxcel_transport::Completion,
        start: impl FnOnce(&mut Link, mlxcel_transport::Completion),
    ) {
        match self.peers.contains_key(&peer) {
            true => drop(self.ask(peer, |link| start(link, done))),
            false => drop(done.end(Err(OpError::PeerLost))),
        }
    }

    /// Ends the link to a peer.
    pub(crate) fn lose(&mut self, peer: PeerId, why: PeerLoss) {
        self.ask(peer, |link| link.abandon(why));
    }

    /// Says good-bye to a peer.
    pub(crate) fn part_from(&mut self, peer: PeerId) {
        self.ask(peer, Link::close);
    }

    /// What all links have done and are doing.
    pub(crate) fn stats(&self) -> Stats {
        let mut all = self.past.clone();
        for peer in self.peers.values() {
            add(&mut all, &peer.link);
            all.in_flight += peer.link.in_flight();
            all.rails.extend(peer.link.rail_stats());
        }
        all
    }

    /// Does what a link wants done, and wakes who sends what it wants sent.
    fn settle(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        while let Some(event) = peer.link.poll() {
            match event {
                // The only one: there is nothing to go on with.
                LinkEvent::CloseRail(..) => peer.link.abandon(PeerLoss::Broken),
                LinkEvent::Lost(why) => {
                    self.forget(id, why);
                    return;
                }
            }
        }
        if peer.link.has_frames() {
            peer.wakes.control.notify_one();
            peer.wakes.load.notify_one();
        }
    }

    fn forget(&mut self, id: PeerId, why: PeerLoss) {
        let Some(peer) = self.peers.remove(&id) else { return };
        tracing::debug!(target: "mlxcel::transport::quic", peer = %id, %why, "a peer is lost");
        add(&mut self.past, &peer.link);
        peer.connection.close(parting_word(why), why.to_string().as_bytes());
    }
}

fn add(all: &mut Stats, link: &Link) {
    let [bytes_out, bytes_in, resent] = link.totals();
    all.bytes_out += bytes_out;
    all.bytes_in += bytes_in;
    all.resent += resent;
}

/// With what a connection is closed when its peer counts as lost.
const fn parting_word(why: PeerLoss) -> VarInt {
    match why {
        PeerLoss::Closed => GOODBYE,
        PeerLoss::Broken | PeerLoss::Silent => GAVE_UP,
        PeerLoss::Protocol(_) => MISBEHAVED,
    }
}

/// The end leaves.
pub(crate) const GOODBYE: VarInt = VarInt::from_u32(0);
/// The end has given the other up.
pub(crate) const GAVE_UP: VarInt = VarInt::from_u32(1);
/// The other end broke the protocol.
pub(crate) const MISBEHAVED: VarInt = VarInt::from_u32(2);
/// The connection is not needed or not wanted.
pub(crate) const UNWANTED: VarInt = VarInt::from_u32(3);
