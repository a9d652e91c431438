//! One end: writes and reads are copies, messages are handed over where the peer's window has room.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::Network;
use crate::contract::{
    Address, Batch, Caps, Channel, ConnectError, Denial, Kind, MemoryKind, Op, OpError, PeerId, PeerLoss,
    RailStats, Region, RegionSlice, RegisterError, Stats, Tag, Transport,
};
use crate::domain::{Domain, Grant, Kick, MAX_MESSAGE, Outbox, PeerState, Use};

/// An endpoint of a [`Network`].
#[derive(Debug)]
pub struct InProcess {
    network: Arc<Network>,
    domain: Arc<Domain>,
    outboxes: Mutex<HashMap<PeerId, Outbox>>,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
}

impl InProcess {
    pub(super) fn new(network: Arc<Network>, domain: Arc<Domain>) -> Self {
        let (bytes_out, bytes_in) = Default::default();
        Self { network, domain, outboxes: Mutex::default(), bytes_out, bytes_in }
    }

    /// The name of this end.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.domain.id()
    }

    /// Breaks the connection to `peer` as a link that is cut does: both ends lose each other.
    pub fn cut(&self, peer: PeerId) {
        self.part(peer, PeerLoss::Broken);
    }

    /// Ends as a process that dies does: every peer loses it, and nobody reaches it again.
    pub fn kill(&self) {
        self.network.remove(self.id());
        for peer in self.domain.peers() {
            self.part(peer, PeerLoss::Broken);
        }
    }

    fn part(&self, peer: PeerId, why: PeerLoss) {
        self.lose(peer, why);
        if let Some(other) = self.network.find(peer) {
            other.lose(self.id(), why);
        }
    }

    fn lose(&self, peer: PeerId, why: PeerLoss) {
        if !matches!(self.domain.peer_state(peer), PeerState::Connected(Kind::InProcess)) {
            return;
        }
        self.domain.peer_lost(peer, why);
        let outbox = self.outboxes.lock().remove(&peer);
        for done in outbox.unwrap_or_default().drain() {
            done.end(Err(OpError::PeerLost));
        }
    }

    fn welcome(self: &Arc<Self>, peer: &Arc<Self>) {
        let (from, to) = (Arc::downgrade(self), Arc::downgrade(peer));
        // Called when this side has read: then the peer may send more.
        let kick = Kick(Arc::new(move || {
            if let (Some(from), Some(to)) = (Weak::upgrade(&from), Weak::upgrade(&to)) {
                to.hear_credit(&from);
            }
        }));
        self.domain.peer_connected(peer.id(), Kind::InProcess, kick);
    }

    fn hear_credit(&self, from: &Self) {
        while let Some((channel, read)) = from.domain.take_credit(self.id()) {
            let mut outboxes = self.outboxes.lock();
            outboxes.entry(from.id()).or_default().read(channel, read);
            self.deliver(&mut outboxes, from, channel);
        }
    }

    /// Hands over what there is room for. The lock on the outboxes keeps messages in order.
    fn deliver(&self, outboxes: &mut HashMap<PeerId, Outbox>, to: &Self, channel: Channel) {
        let Some(outbox) = outboxes.get_mut(&to.id()) else { return };
        while let Some((_, message, done)) = outbox.next(channel) {
            let bytes = message.0.len() as u64;
            let delivered = to.domain.deliver(self.id(), channel, message.0);
            debug_assert!(delivered.is_ok(), "the outbox keeps to the window");
            if done.end(delivered.map_err(|_| OpError::Cancelled)) {
                self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
                to.bytes_in.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }

    /// The other end, if it is connected.
    fn reach(&self, peer: PeerId) -> Result<Arc<Self>, OpError> {
        match self.domain.peer_state(peer) {
            PeerState::Connected(Kind::InProcess) => self.network.find(peer).ok_or(OpError::PeerLost),
            _ => Err(OpError::PeerLost),
        }
    }

    fn copy_out(&self, batch: &Batch, tag: Tag) -> Result<(), OpError> {
        let peer = self.reach(batch.peer())?;
        if !peer.domain.is_expected(tag, self.id()) {
            return Err(OpError::Cancelled);
        }
        // All before any: a batch that is refused in part is not written in part.
        let pairs = pairs(&peer.domain, batch, Use::Write).map_err(OpError::AccessDenied)?;
        for (local, remote) in pairs {
            copy(&local, &remote);
        }
        if !peer.domain.arrived(tag, self.id()) {
            return Err(OpError::Cancelled);
        }
        self.bytes_out.fetch_add(batch.bytes(), Ordering::Relaxed);
        peer.bytes_in.fetch_add(batch.bytes(), Ordering::Relaxed);
        Ok(())
    }

    fn copy_in(&self, batch: &Batch) -> Result<(), OpError> {
        let peer = self.reach(batch.peer())?;
        for (local, remote) in pairs(&peer.domain, batch, Use::Read).map_err(OpError::AccessDenied)? {
            copy(&remote, &local);
        }
        self.bytes_in.fetch_add(batch.bytes(), Ordering::Relaxed);
        Ok(())
    }
}

/// The local and remote bytes of each run, as far as the remote side admits them.
fn pairs(remote: &Domain, batch: &Batch, wanted: Use) -> Result<Vec<(RegionSlice, RegionSlice)>, Denial> {
    let pair = |run| {
        let run: &crate::Run = run;
        let key = batch.key(run);
        let grant = Grant { region: key.region, capability: key.capability };
        let admitted = remote.admit(grant, run.remote_offset, run.len, wanted)?;
        Ok((batch.local_slice(run, 0, run.len), admitted))
    };
    batch.runs().iter().map(pair).collect()
}

fn copy(from: &RegionSlice, to: &RegionSlice) {
    // SAFETY: both slices are as long as the run and kept alive; they may overlap, which `copy` allows.
    unsafe { std::ptr::copy(from.as_ptr(), to.as_ptr(), from.len()) };
}

impl Transport for InProcess {
    fn kind(&self) -> Kind {
        Kind::InProcess
    }

    fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    fn caps(&self) -> Caps {
        Caps {
            native_read: true,
            native_immediate: true,
            fences_late_writes: true,
            memory: vec![MemoryKind::Host, MemoryKind::MetalShared],
            runs_per_batch: usize::MAX,
            inline_bytes: 0,
            encrypted: false,
            rails: 1,
        }
    }

    /// One that only says that there is an endpoint: peers are found by name.
    fn addresses(&self) -> Vec<Address> {
        vec![Address { kind: Kind::InProcess, socket: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0) }]
    }

    fn attach(&self, region: &Region) -> Result<(), RegisterError> {
        match region.memory().memory().kind() {
            MemoryKind::Host | MemoryKind::MetalShared => Ok(()),
            kind @ MemoryKind::CudaDmabuf => {
                Err(RegisterError::UnsupportedMemory { transport: Kind::InProcess, kind })
            }
        }
    }

    fn connect(
        &self,
        peer: PeerId,
        addresses: &[Address],
        _: Instant,
    ) -> BoxFuture<'static, Result<(), ConnectError>> {
        let connected = if !addresses.iter().any(|address| address.kind == Kind::InProcess) {
            Err(ConnectError::NoAddress(Kind::InProcess))
        } else if let (Some(me), Some(other)) = (self.network.find(self.id()), self.network.find(peer)) {
            if !matches!(self.domain.peer_state(peer), PeerState::Connected(Kind::InProcess)) {
                other.welcome(&me);
                me.welcome(&other);
            }
            Ok(())
        } else {
            let detail = "there is no such endpoint in this process".to_owned();
            Err(ConnectError::Unreachable { address: Kind::InProcess.to_string(), detail })
        };
        async move { connected }.boxed()
    }

    fn disconnect(&self, peer: PeerId) {
        self.part(peer, PeerLoss::Closed);
    }

    fn write(&self, batch: &Batch, tag: Tag, _: Instant) -> Op {
        Op::ended(self.copy_out(batch, tag))
    }

    fn read(&self, batch: &Batch, _: Instant) -> Op {
        Op::ended(self.copy_in(batch))
    }

    fn send(&self, peer: PeerId, channel: Channel, message: Bytes, deadline: Instant) -> Op {
        if message.len() > MAX_MESSAGE {
            return Op::ended(Err(OpError::Cancelled));
        }
        let other = match self.reach(peer) {
            Ok(other) => other,
            Err(error) => return Op::ended(Err(error)),
        };
        let (op, done) = Op::pending();
        self.domain.watch(deadline, &done);
        let mut outboxes = self.outboxes.lock();
        outboxes.entry(peer).or_default().push(channel, message, done);
        self.deliver(&mut outboxes, &other, channel);
        op
    }

    fn progress(&self) -> bool {
        false
    }

    fn stats(&self) -> Stats {
        let rail = |peer| RailStats { peer, rail: 0, rate: 0.0, in_flight: 0, usable: true };
        Stats {
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            in_flight: self.outboxes.lock().values().map(Outbox::len).sum(),
            resent: 0,
            rails: self.domain.peers().into_iter().map(rail).collect(),
        }
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
