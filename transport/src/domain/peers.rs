//! Which peers are connected, over what, and who was lost.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::contract::{Completion, Kind, OpError, PeerId, PeerLoss};

/// Called when a transport has something new to tell a peer.
#[derive(Clone)]
pub struct Kick(pub Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Kick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kick")
    }
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It was never connected.
    Unknown,
    /// It is connected over this transport, the last one if there are several.
    Connected(Kind),
    /// It was connected. A process that comes back has another name, so only a link that was cut too long ago comes
    /// back from here.
    Lost(PeerLoss),
}

#[derive(Debug, Default)]
pub(super) struct Peers {
    known: Mutex<HashMap<PeerId, Peer>>,
}

#[derive(Debug, Default)]
struct Peer {
    state: Option<State>,
    waiters: Vec<Completion>,
}

#[derive(Debug)]
enum State {
    Connected(Kind, Kick),
    Lost(PeerLoss),
}

impl Peers {
    pub(super) fn connected(&self, peer: PeerId, kind: Kind, kick: Kick) {
        let mut known = self.known.lock();
        let peer = known.entry(peer).or_default();
        peer.state = Some(State::Connected(kind, kick));
        for waiter in peer.waiters.drain(..) {
            waiter.end(Ok(()));
        }
    }

    pub(super) fn lost(&self, peer: PeerId, why: PeerLoss) {
        let mut known = self.known.lock();
        let peer = known.entry(peer).or_default();
        peer.state = Some(State::Lost(why));
        for waiter in peer.waiters.drain(..) {
            waiter.end(Err(OpError::PeerLost));
        }
    }

    pub(super) fn state(&self, peer: PeerId) -> PeerState {
        match self.known.lock().get(&peer).and_then(|peer| peer.state.as_ref()) {
            None => PeerState::Unknown,
            Some(State::Connected(kind, _)) => PeerState::Connected(*kind),
            Some(State::Lost(why)) => PeerState::Lost(*why),
        }
    }

    pub(super) fn all(&self) -> Vec<PeerId> {
        let known = self.known.lock();
        let connected = known.iter().filter(|(_, peer)| matches!(peer.state, Some(State::Connected(..))));
        connected.map(|(peer, _)| *peer).collect()
    }

    pub(super) fn wait(&self, peer: PeerId, done: Completion) {
        let mut known = self.known.lock();
        let peer = known.entry(peer).or_default();
        if let Some(State::Connected(..)) = peer.state {
            done.end(Ok(()));
        } else {
            peer.waiters.retain(|waiter| !waiter.is_ended());
            peer.waiters.push(done);
        }
    }

    pub(super) fn kick(&self, peer: PeerId) {
        let kick = match self.known.lock().get(&peer).and_then(|peer| peer.state.as_ref()) {
            Some(State::Connected(_, kick)) => kick.clone(),
            _ => return,
        };
        (kick.0)();
    }
}
