//! One end of the faulty network, as a transport.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Network;
use crate::contract::{
    Address, Batch, Caps, Channel, Completion, ConnectError, Kind, MemoryKind, Op, OpError, PeerId, Region,
    RegisterError, Stats, Tag, Transport,
};
use crate::core::Link;
use crate::domain::Domain;

/// An endpoint of a [`Network`]. Deadlines are in its virtual time (`Network::now`).
#[derive(Debug)]
pub struct Faulty {
    network: Arc<Network>,
    domain: Arc<Domain>,
}

impl Faulty {
    pub(super) const fn new(network: Arc<Network>, domain: Arc<Domain>) -> Self {
        Self { network, domain }
    }

    /// The name of this end.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.domain.id()
    }

    fn order(&self, peer: PeerId, deadline: Instant, order: impl FnOnce(&mut Link, Completion)) -> Op {
        let (op, done) = Op::pending();
        self.domain.watch(deadline, &done);
        let mut world = self.network.world.lock();
        let link = world.ends.get_mut(&self.id()).and_then(|end| end.links.get_mut(&peer));
        match link {
            Some(link) => order(link, done),
            None => drop(done.end(Err(OpError::PeerLost))),
        }
        op
    }
}

impl Transport for Faulty {
    fn kind(&self) -> Kind {
        Kind::InProcess
    }

    fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    fn caps(&self) -> Caps {
        Caps {
            native_read: false,
            native_immediate: false,
            fences_late_writes: true,
            memory: vec![MemoryKind::Host],
            runs_per_batch: usize::MAX,
            inline_bytes: 0,
            encrypted: false,
            rails: 1,
        }
    }

    fn addresses(&self) -> Vec<Address> {
        vec![Address { kind: Kind::InProcess, socket: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0) }]
    }

    fn attach(&self, region: &Region) -> Result<(), RegisterError> {
        match region.memory().memory().kind() {
            MemoryKind::Host => Ok(()),
            kind => Err(RegisterError::UnsupportedMemory { transport: Kind::InProcess, kind }),
        }
    }

    fn connect(
        &self,
        peer: PeerId,
        _: &[Address],
        _: Instant,
    ) -> BoxFuture<'static, Result<(), ConnectError>> {
        let joined = self.network.world.lock().join(self.id(), peer);
        let unreachable = || ConnectError::Unreachable {
            address: Kind::InProcess.to_string(),
            detail: "there is no wire to such an endpoint".into(),
        };
        async move { joined.then_some(()).ok_or_else(unreachable) }.boxed()
    }

    fn disconnect(&self, peer: PeerId) {
        let mut world = self.network.world.lock();
        if let Some(link) = world.ends.get_mut(&self.id()).and_then(|end| end.links.get_mut(&peer)) {
            link.close();
        }
    }

    fn write(&self, batch: &Batch, tag: Tag, deadline: Instant) -> Op {
        self.order(batch.peer(), deadline, |link, done| link.write(batch, tag, done))
    }

    fn read(&self, batch: &Batch, deadline: Instant) -> Op {
        self.order(batch.peer(), deadline, |link, done| link.read(batch, done))
    }

    fn send(&self, peer: PeerId, channel: Channel, message: Bytes, deadline: Instant) -> Op {
        self.order(peer, deadline, |link, done| link.send(channel, message, done))
    }

    /// Nothing: time passes when the network is told to let it.
    fn progress(&self) -> bool {
        false
    }

    fn stats(&self) -> Stats {
        let world = self.network.world.lock();
        let Some(end) = world.ends.get(&self.id()) else { return Stats::default() };
        end.links.values().fold(Stats::default(), |mut stats, link| {
            let [bytes_out, bytes_in, resent] = link.totals();
            stats.bytes_out += bytes_out;
            stats.bytes_in += bytes_in;
            stats.resent += resent;
            stats.in_flight += link.in_flight();
            stats.rails.extend(link.rail_stats());
            stats
        })
    }
}
