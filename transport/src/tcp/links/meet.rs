//! Who may become a rail of which link.
//!
//! Both ends name their end of the link in every handshake. An end that has lost the link begins a new one with a new
//! name; the other end, whether it has noticed or not, then loses the old one first, so that what was said on one link
//! is never taken for something said on the next.

use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mlxcel_cluster_config::Fingerprint;

use super::peer::Peer;
use super::{Links, PeerId};
use crate::core::hello::{Answer, Hello, Refusal};
use crate::core::{Link, LinkConfig, RailId};
use crate::domain::Kick;
use crate::tcp::config::MAX_RAILS;
use crate::tcp::rail::{Rail, Wire};
use crate::{ConnectError, Kind};

/// What a peer that we called said.
#[derive(Debug)]
pub(in crate::tcp) struct Reply {
    /// What we said.
    pub(in crate::tcp) hello: Hello,
    /// Where we called.
    pub(in crate::tcp) address: SocketAddr,
    pub(in crate::tcp) answer: Answer,
}

/// A connection whose ends know each other.
pub(in crate::tcp) struct Met {
    pub(in crate::tcp) socket: TcpStream,
    pub(in crate::tcp) wire: Wire,
    /// The key the peer has shown.
    pub(in crate::tcp) key: Option<Fingerprint>,
}

impl Links {
    /// What a caller is answered.
    pub(in crate::tcp) fn judge(&mut self, hello: &Hello, key: Option<Fingerprint>, now: Instant) -> Answer {
        if hello.to != self.domain.id() || hello.from == hello.to {
            return Answer::Refused(Refusal::AnotherPeer);
        }
        self.settle(hello.from, now);
        let known = self.peers.get(&hello.from);
        let (ours, theirs) = (known.map(|peer| peer.ours), known.and_then(|peer| peer.theirs));
        // An end has larger names the later it began: what comes from one that has begun anew since comes too late.
        let late = theirs.is_some_and(|theirs| theirs > hello.incarnation);
        if late || (hello.known.is_some() && hello.known != ours) {
            return Answer::Refused(Refusal::Forgotten);
        }
        if theirs.is_some_and(|theirs| theirs < hello.incarnation) {
            self.lose(hello.from, now);
        }
        let rails = hello.rails.max(self.config.rails).min(MAX_RAILS);
        let Some(peer) = self.peers.get(&hello.from) else {
            return Answer::Accepted { incarnation: self.new_incarnation(), rails };
        };
        let stranger = peer.link.is_some() && peer.key != key;
        let taken = peer.rails.iter().any(|rail| self.rails[*rail].id == hello.rail);
        if stranger || taken || peer.rails_up() >= MAX_RAILS {
            return Answer::Refused(Refusal::Unwelcome);
        }
        Answer::Accepted { incarnation: peer.ours, rails }
    }

    /// A caller has been answered that it is welcome, by our end of this name.
    pub(in crate::tcp) fn welcome(&mut self, hello: &Hello, incarnation: u64, met: Met, now: Instant) {
        let peer = self.peers.entry(hello.from).or_insert_with(|| Peer::new(incarnation));
        let known = peer.theirs.is_none_or(|known| known == hello.incarnation);
        // If the link was lost in the meantime, the caller finds its connection closed.
        if known && peer.ours == incarnation {
            peer.theirs = Some(hello.incarnation);
            self.rail_up(hello.from, hello.rail, met, now);
        }
    }

    /// A peer that we called has answered.
    pub(in crate::tcp) fn answered(&mut self, reply: Reply, met: Met, now: Instant) {
        let Reply { hello, address, answer } = reply;
        let Some(peer) = self.peers.get_mut(&hello.to).filter(|peer| peer.ours == hello.incarnation) else {
            return;
        };
        match answer {
            Answer::Refused(Refusal::Forgotten) => self.lose(hello.to, now),
            Answer::Refused(refusal) => {
                if refusal == Refusal::AnotherPeer {
                    self.gone(&hello, now);
                }
                let address = address.to_string();
                let error = match refusal {
                    Refusal::AnotherPeer => ConnectError::AnotherPeer { address },
                    Refusal::Unwelcome | Refusal::Forgotten => {
                        ConnectError::Untrusted { address, detail: "it takes no more connections".into() }
                    }
                };
                self.call_failed(&hello, error, now);
            }
            Answer::Accepted { incarnation, rails } => {
                if let Some(dial) = &mut peer.dial {
                    dial.connected(address, rails, now);
                }
                let stranger = peer.link.is_some() && peer.key != met.key;
                if peer.theirs.is_some_and(|known| known != incarnation) || stranger {
                    self.lose(hello.to, now);
                    return;
                }
                peer.theirs = Some(incarnation);
                self.dials_due = true;
                self.rail_up(hello.to, hello.rail, met, now);
            }
        }
    }

    /// Nobody listens any more where a peer was called, or somebody else does: without rails, the peer is lost.
    pub(in crate::tcp) fn gone(&mut self, hello: &Hello, now: Instant) {
        let this = |peer: &&mut Peer| peer.ours == hello.incarnation && peer.rails.is_empty();
        if let Some(peer) = self.peers.get_mut(&hello.to).filter(this) {
            peer.abandon();
        }
        self.settle(hello.to, now);
    }

    /// A call came to nothing.
    pub(in crate::tcp) fn call_failed(&mut self, hello: &Hello, error: ConnectError, now: Instant) {
        let Some(peer) = self.peers.get_mut(&hello.to).filter(|peer| peer.ours == hello.incarnation) else {
            return;
        };
        tracing::debug!(target: "mlxcel::transport::tcp", peer = %hello.to, %error, "a call failed");
        self.dials_due = true;
        if let Some(error) = peer.dial.as_mut().and_then(|dial| dial.failed(error, now)) {
            peer.dial = None;
            peer.tell_waiters(&Err(error));
            if peer.is_idle() {
                self.peers.remove(&hello.to);
            }
        }
    }

    /// The calls to make now.
    pub(in crate::tcp) fn take_calls(&mut self, now: Instant) -> Vec<(SocketAddr, Hello)> {
        self.dials_due = false;
        let (from, rails) = (self.domain.id(), self.config.rails);
        let mut calls = Vec::new();
        for (to, peer) in &mut self.peers {
            while let Some(address) = peer.next_dial(now) {
                let rail = next_rail_id(peer, from > *to);
                calls.push((
                    address,
                    Hello { from, to: *to, incarnation: peer.ours, known: peer.theirs, rail, rails },
                ));
            }
        }
        calls
    }

    fn rail_up(&mut self, id: PeerId, rail: RailId, met: Met, now: Instant) {
        let peer = self.peers.get_mut(&id).expect("the caller looked it up");
        let Met { socket, wire, key } = met;
        let place = self.rails.insert(Rail::new((id, peer.ours, rail), socket, wire));
        peer.rails.push(place);
        let new = peer.link.is_none();
        let config = LinkConfig { silence_limit: self.config.silence_limit, ..LinkConfig::default() };
        let link = peer.link.get_or_insert_with(|| Link::new(self.domain.clone(), id, config, now));
        link.rail_up(rail, now);
        peer.orphaned = None;
        if new {
            peer.key = key;
            let kick = std::sync::Arc::clone(&self.kick);
            self.domain.peer_connected(id, Kind::Tcp, Kick(std::sync::Arc::new(move || kick(id))));
            peer.tell_waiters(&Ok(()));
        }
        self.newborn.push(place);
        self.touch(id);
        // Bytes that came with the end of the handshake are there already.
        self.digest(place, now);
    }

    /// A name for our end of a link, larger than all before.
    pub(super) const fn new_incarnation(&mut self) -> u64 {
        self.incarnations += 1;
        self.incarnations
    }

    fn lose(&mut self, id: PeerId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.abandon();
        }
        self.settle(id, now);
        self.peers.remove(&id);
    }
}

/// A name for a connection we open that no other connection of the link has: of the two ends' names the top bit tells
/// who opened it.
fn next_rail_id(peer: &mut Peer, larger: bool) -> RailId {
    let number = peer.opened & 0x7fff;
    peer.opened = peer.opened.wrapping_add(1);
    number | if larger { 0x8000 } else { 0 }
}
