//! Messages that have arrived and have not been read, by peer and channel, within a window of bytes each.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::contract::{Channel, Completion, OpError, PeerId};

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// How many bytes of a channel may be unread. What a message costs beside its bytes counts too.
pub const WINDOW: u64 = 256 * 1024;

/// A message with what it counts for in its channel's window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(pub Bytes);

impl Message {
    /// Bytes of the window that it takes.
    #[must_use]
    pub const fn cost(&self) -> u64 {
        self.0.len() as u64 + MESSAGE_COST
    }
}

/// A peer sent more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overflow {
    /// The message is too long.
    #[error("a message has at most {MAX_MESSAGE} bytes")]
    Message,
    /// The channel's window is full.
    #[error("a channel has at most {WINDOW} bytes that are not read")]
    Window,
    /// There are too many channels.
    #[error("a peer has at most {MAX_CHANNELS} channels")]
    Channels,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    peers: Mutex<HashMap<PeerId, Channels>>,
}

#[derive(Debug, Default)]
struct Channels {
    known: HashMap<Channel, Queue>,
    /// Channels whose credit the peer has not been told.
    credit: BTreeSet<u32>,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    unread: u64,
    read: u64,
    told: u64,
    waiters: Vec<Completion>,
}

impl Inbox {
    pub(super) fn deliver(&self, peer: PeerId, channel: Channel, message: Bytes) -> Result<(), Overflow> {
        if message.len() > MAX_MESSAGE {
            return Err(Overflow::Message);
        }
        let mut peers = self.peers.lock();
        let channels = peers.entry(peer).or_default();
        if channels.known.len() >= MAX_CHANNELS && !channels.known.contains_key(&channel) {
            return Err(Overflow::Channels);
        }
        let queue = channels.known.entry(channel).or_default();
        let message = Message(message);
        // What has been read and not told is not the peer's to use yet.
        if queue.unread + (queue.read - queue.told) + message.cost() > WINDOW {
            return Err(Overflow::Window);
        }
        queue.unread += message.cost();
        queue.messages.push_back(message);
        for waiter in queue.waiters.drain(..) {
            waiter.end(Ok(()));
        }
        Ok(())
    }

    /// The next message, and whether the peer should be told now that there is room again.
    pub(super) fn take(&self, peer: PeerId, channel: Channel) -> Option<(Bytes, bool)> {
        let mut peers = self.peers.lock();
        let channels = peers.get_mut(&peer)?;
        let queue = channels.known.get_mut(&channel)?;
        let message = queue.messages.pop_front()?;
        queue.unread -= message.cost();
        queue.read += message.cost();
        let due = queue.read - queue.told >= WINDOW / 4 && channels.credit.insert(channel.0);
        Some((message.0, due))
    }

    pub(super) fn wait(&self, peer: PeerId, channel: Channel, done: Completion) {
        let mut peers = self.peers.lock();
        let queue = peers.entry(peer).or_default().known.entry(channel).or_default();
        if !queue.messages.is_empty() {
            done.end(Ok(()));
            return;
        }
        queue.waiters.retain(|waiter| !waiter.is_ended());
        queue.waiters.push(done);
    }

    pub(super) fn take_credit(&self, peer: PeerId) -> Option<(Channel, u64)> {
        let mut peers = self.peers.lock();
        let channels = peers.get_mut(&peer)?;
        let channel = Channel(channels.credit.pop_first()?);
        let queue = channels.known.get_mut(&channel).expect("only known channels earn credit");
        queue.told = queue.read;
        Some((channel, queue.read))
    }

    pub(super) fn retell(&self, peer: PeerId) {
        let mut peers = self.peers.lock();
        if let Some(Channels { known, credit }) = peers.get_mut(&peer) {
            credit.extend(known.iter().filter(|(_, queue)| queue.read > 0).map(|(channel, _)| channel.0));
        }
    }

    /// Ends who waits for `peer`. What has arrived can still be read.
    pub(super) fn lost(&self, peer: PeerId) {
        let mut peers = self.peers.lock();
        let Some(channels) = peers.get_mut(&peer) else { return };
        for waiter in channels.known.values_mut().flat_map(|queue| queue.waiters.drain(..)) {
            waiter.end(Err(OpError::PeerLost));
        }
        channels.known.retain(|_, queue| !queue.messages.is_empty());
        channels.credit.clear();
        if channels.known.is_empty() {
            peers.remove(&peer);
        }
    }
}

const MESSAGE_COST: u64 = 64;
const MAX_CHANNELS: usize = 256;
