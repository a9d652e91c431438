//! The books of one process's data plane, which all its transports share: regions, counters, messages, peers and
//! deadlines.
//!
//! Pure bookkeeping behind locks that are held briefly: no sockets, and no clock but the thread that ends operations
//! whose deadline has passed, which a domain with a manual clock does not have. What moves the bytes is a transport's
//! affair; what they mean its user's.

mod counters;
mod deadlines;
mod inbox;
mod outbox;
mod peers;
mod regions;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::contract::{
    Access, Channel, Completion, Denial, Kind, Memory, Op, PeerId, PeerLoss, Region, RegionMemory,
    RegionSlice, Tag,
};

use counters::Counters;
use deadlines::Deadlines;
use inbox::Inbox;
use peers::Peers;
use regions::Regions;

pub use counters::{Counter, TagInUse};
pub use inbox::{MAX_MESSAGE, Message, Overflow, WINDOW};
pub(crate) use outbox::Outbox;
pub use peers::{Kick, PeerState};
pub use regions::{Grant, Use};

/// The data plane's books. One for each process (or, in tests, for each pretended process).
#[derive(Debug)]
pub struct Domain {
    id: PeerId,
    regions: Regions,
    counters: Arc<Counters>,
    inbox: Inbox,
    peers: Peers,
    deadlines: Arc<Deadlines>,
}

impl Domain {
    /// Books of a new process, whose deadlines a thread watches.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::with(PeerId::random(), Deadlines::watched())
    }

    /// Books of a process of this name, whose deadlines pass when [`expire`](Self::expire) says so: for virtual time.
    #[must_use]
    pub fn with_manual_clock(id: PeerId) -> Arc<Self> {
        Self::with(id, Deadlines::manual())
    }

    fn with(id: PeerId, deadlines: Arc<Deadlines>) -> Arc<Self> {
        Arc::new(Self {
            id,
            regions: Regions::default(),
            counters: Arc::default(),
            inbox: Inbox::default(),
            peers: Peers::default(),
            deadlines,
        })
    }

    /// The name of this process's end.
    #[must_use]
    pub const fn id(&self) -> PeerId {
        self.id
    }

    // Regions.

    /// Registers memory, for transports that need no more than that (see `TransportExt::register`).
    #[must_use]
    pub fn register(self: &Arc<Self>, memory: Memory, access: Access) -> Region {
        let memory = RegionMemory::new(memory);
        let name = self.regions.add(Arc::clone(&memory), access);
        Region::new(memory, access, name, Arc::downgrade(self))
    }

    /// The bytes that a peer names, if it may use them so.
    ///
    /// # Errors
    /// When there is no such region, or the range leaves it, or it was not registered for this use.
    pub fn admit(&self, grant: Grant, offset: u64, len: u64, wanted: Use) -> Result<RegionSlice, Denial> {
        self.regions.admit(grant, offset, len, wanted)
    }

    /// Lets a peer write to memory until the grant is withdrawn: for reads that the peer answers with writes.
    #[must_use]
    pub fn grant(&self, memory: &Arc<RegionMemory>) -> Grant {
        let (region, capability) = self.regions.add(Arc::clone(memory), Access::WRITE);
        Grant { region, capability }
    }

    /// Withdraws a region or a grant: from now on nobody is admitted to it.
    pub fn withdraw(&self, region: u32) {
        self.regions.remove(region);
    }

    // Counters.

    /// Opens a tag: counts batches that these peers write with it, until the counter is dropped.
    ///
    /// # Errors
    /// When the tag is open already.
    pub fn expect(&self, tag: Tag, from: &[PeerId]) -> Result<Counter, TagInUse> {
        let lost = from.iter().copied().find(|peer| matches!(self.peers.state(*peer), PeerState::Lost(_)));
        Counters::open(&self.counters, tag, from, lost, &self.deadlines)
    }

    /// Whether a write of `peer` with this tag would be counted.
    #[must_use]
    pub fn is_expected(&self, tag: Tag, peer: PeerId) -> bool {
        self.counters.is_open(tag, peer)
    }

    /// Counts a batch of `peer` that is there whole; whether its tag is open for the peer.
    pub fn arrived(&self, tag: Tag, peer: PeerId) -> bool {
        self.counters.arrived(tag, peer)
    }

    // Messages.

    /// Hands over a message of `peer`, in the order they are to be read.
    ///
    /// # Errors
    /// When the peer sends more than the window it was given allows, which no correct peer does.
    pub fn deliver(&self, peer: PeerId, channel: Channel, message: Bytes) -> Result<(), Overflow> {
        self.inbox.deliver(peer, channel, message)
    }

    /// The next message of `peer` on a channel, if there is one.
    #[must_use]
    pub fn try_receive(&self, peer: PeerId, channel: Channel) -> Option<Bytes> {
        let (message, reopened) = self.inbox.take(peer, channel)?;
        if reopened {
            self.peers.kick(peer);
        }
        Some(message)
    }

    /// Ends well when a message of `peer` on this channel is there to be received.
    pub fn readable(&self, peer: PeerId, channel: Channel, deadline: Instant) -> Op {
        let (op, done) = Op::pending();
        self.deadlines.watch(deadline, &done);
        self.inbox.wait(peer, channel, done);
        if let PeerState::Lost(_) = self.peers.state(peer) {
            self.inbox.lost(peer);
        }
        op
    }

    /// The next message of `peer` on a channel.
    ///
    /// # Errors
    /// When the peer is lost, or the deadline passes.
    pub async fn receive(
        &self,
        peer: PeerId,
        channel: Channel,
        deadline: Instant,
    ) -> Result<Bytes, crate::OpError> {
        loop {
            if let Some(message) = self.try_receive(peer, channel) {
                return Ok(message);
            }
            self.readable(peer, channel, deadline).await?;
        }
    }

    /// A channel of `peer` that has been read since this last named it, and how many bytes of it have been read in
    /// all: what a transport tells the peer, which may have a [`WINDOW`] of bytes unread.
    #[must_use]
    pub fn take_credit(&self, peer: PeerId) -> Option<(Channel, u64)> {
        self.inbox.take_credit(peer)
    }

    /// Has everything that was read named again by [`take_credit`](Self::take_credit): what was told may be lost.
    pub fn retell_credit(&self, peer: PeerId) {
        self.inbox.retell(peer);
    }

    // Peers.

    /// Notes that `peer` is connected over a transport, which `kick` calls when there is something new to tell the
    /// peer.
    pub fn peer_connected(&self, peer: PeerId, kind: Kind, kick: Kick) {
        self.peers.connected(peer, kind, kick);
    }

    /// Notes that `peer` is lost, and ends everything that waits for it.
    pub fn peer_lost(&self, peer: PeerId, why: PeerLoss) {
        self.peers.lost(peer, why);
        self.counters.peer_lost(peer);
        self.inbox.lost(peer);
    }

    /// What is known of `peer`.
    #[must_use]
    pub fn peer_state(&self, peer: PeerId) -> PeerState {
        self.peers.state(peer)
    }

    /// All peers that are connected.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerId> {
        self.peers.all()
    }

    /// Ends well when `peer` is connected, whoever connected to whom.
    pub fn connected(&self, peer: PeerId, deadline: Instant) -> Op {
        let (op, done) = Op::pending();
        self.deadlines.watch(deadline, &done);
        self.peers.wait(peer, done);
        op
    }

    // Deadlines.

    /// Ends `done` with a timeout when `deadline` passes.
    pub fn watch(&self, deadline: Instant, done: &Completion) {
        self.deadlines.watch(deadline, done);
    }

    /// Ends what should have ended by `now`; when the next deadline passes.
    pub fn expire(&self, now: Instant) -> Option<Instant> {
        self.deadlines.expire(now)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        self.deadlines.close();
    }
}

#[cfg(test)]
mod tests;
