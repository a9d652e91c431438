//! A transport that goes each peer's best way.
//!
//! Holds the transports of a process, which share one domain, so that counters, regions and messages are the same
//! whichever way bytes come. Connects by the choice, falls back while connecting, and remembers what failed: when a
//! way is lost, operations end as lost, and connecting again takes the next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{Choice, Offer, Policy, Way, choose};
use crate::contract::{
    Address, Batch, Caps, Channel, ConnectError, Kind, Op, OpError, PeerId, Region, RegisterError, Stats,
    Tag, Transport,
};
use crate::domain::{Domain, PeerState};

/// The transports of a process as one.
pub struct Selected {
    domain: Arc<Domain>,
    transports: Vec<Arc<dyn Transport>>,
    missing: Vec<Way>,
    policy: Policy,
    paths: Arc<Mutex<HashMap<PeerId, Path>>>,
}

/// How a peer is reached.
#[derive(Default)]
struct Path {
    kind: Option<Kind>,
    failed: HashMap<Kind, String>,
    choice: Option<Choice>,
}

impl Selected {
    /// Puts together the transports that were started; `missing` says why others were not.
    ///
    /// # Panics
    /// When there is none, or they do not share one domain.
    #[must_use]
    pub fn new(transports: Vec<Arc<dyn Transport>>, missing: Vec<Way>, policy: Policy) -> Self {
        let domain = Arc::clone(transports.first().expect("a process has a transport").domain());
        let shared = transports.iter().all(|transport| Arc::ptr_eq(transport.domain(), &domain));
        assert!(shared, "the transports of a process share its domain");
        Self { domain, transports, missing, policy, paths: Arc::default() }
    }

    /// What to tell peers.
    #[must_use]
    pub fn offer(&self) -> Offer {
        let ready = self.transports.iter().map(|transport| Way::of(&**transport));
        Offer { peer: self.domain.id(), ways: ready.chain(self.missing.iter().cloned()).collect() }
    }

    /// Connects to the peer that made this offer, the best way that works.
    ///
    /// # Errors
    /// When none does: what the last one tried said.
    pub fn connect_offered(
        &self,
        theirs: &Offer,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Choice, ConnectError>> {
        let (ours, theirs, policy) = (self.offer(), theirs.clone(), self.policy);
        let (transports, paths) = (self.transports.clone(), Arc::clone(&self.paths));
        if let PeerState::Lost(why) = self.domain.peer_state(theirs.peer) {
            let mut paths = paths.lock();
            let path = paths.entry(theirs.peer).or_default();
            if let Some(kind) = path.kind.take() {
                path.failed.insert(kind, why.to_string());
            }
        }
        async move {
            let peer = theirs.peer;
            let failed = |kind| paths.lock().get(&peer).and_then(|path| path.failed.get(&kind).cloned());
            let mut last = ConnectError::NoCommonWay;
            for (kind, addresses) in choose(&ours, &theirs, policy, failed).order {
                let transport = transports.iter().find(|transport| transport.kind() == kind);
                let transport = transport.expect("only offered ways are chosen");
                match transport.connect(peer, &addresses, deadline).await {
                    Ok(()) => {
                        let mut choice = choose(&ours, &theirs, policy, failed);
                        choice.order.retain(|(tried, _)| *tried == kind);
                        let mut paths = paths.lock();
                        let path = paths.entry(peer).or_default();
                        (path.kind, path.choice) = (Some(kind), Some(choice.clone()));
                        return Ok(choice);
                    }
                    Err(error) => {
                        paths.lock().entry(peer).or_default().failed.insert(kind, error.to_string());
                        last = error;
                    }
                }
            }
            Err(last)
        }
        .boxed()
    }

    /// Which way a peer is reached and why, if this side connected to it.
    #[must_use]
    pub fn path(&self, peer: PeerId) -> Option<Choice> {
        self.paths.lock().get(&peer)?.choice.clone()
    }

    /// The transport that a connected peer is reached by, whoever connected.
    fn towards(&self, peer: PeerId) -> Option<&Arc<dyn Transport>> {
        let PeerState::Connected(kind) = self.domain.peer_state(peer) else { return None };
        self.transports.iter().find(|transport| transport.kind() == kind)
    }
}

impl Transport for Selected {
    /// The best of those that were started.
    fn kind(&self) -> Kind {
        let mut kinds = Kind::ALL.into_iter();
        let started = |kind: &Kind| self.transports.iter().any(|transport| transport.kind() == *kind);
        kinds.find(started).expect("there is a transport")
    }

    fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// What all of them can do.
    fn caps(&self) -> Caps {
        let all: Vec<Caps> = self.transports.iter().map(|transport| transport.caps()).collect();
        let mut memory = all[0].memory.clone();
        memory.retain(|kind| all.iter().all(|caps| caps.memory.contains(kind)));
        Caps {
            native_read: all.iter().all(|caps| caps.native_read),
            native_immediate: all.iter().all(|caps| caps.native_immediate),
            fences_late_writes: all.iter().all(|caps| caps.fences_late_writes),
            memory,
            runs_per_batch: all.iter().map(|caps| caps.runs_per_batch).min().unwrap_or(0),
            inline_bytes: all.iter().map(|caps| caps.inline_bytes).min().unwrap_or(0),
            encrypted: all.iter().all(|caps| caps.encrypted),
            rails: all.iter().map(|caps| caps.rails).min().unwrap_or(0),
        }
    }

    fn addresses(&self) -> Vec<Address> {
        self.transports.iter().flat_map(|transport| transport.addresses()).collect()
    }

    fn attach(&self, region: &Region) -> Result<(), RegisterError> {
        self.transports.iter().try_for_each(|transport| transport.attach(region))
    }

    /// Takes the peer's addresses as its offer: what they do not tell, encryption and rails, is taken to be as here.
    fn connect(
        &self,
        peer: PeerId,
        addresses: &[Address],
        deadline: Instant,
    ) -> BoxFuture<'static, Result<(), ConnectError>> {
        let ways = self.offer().ways.into_iter().filter_map(|way| match way {
            Way::Ready { kind, encrypted, rails, .. } => {
                let addresses = addresses.iter().filter(|address| address.kind == kind).copied().collect();
                Some(Way::Ready { kind, addresses, encrypted, rails })
            }
            Way::Missing { .. } => None,
        });
        let theirs = Offer { peer, ways: ways.collect() };
        self.connect_offered(&theirs, deadline).map(|connected| connected.map(drop)).boxed()
    }

    fn disconnect(&self, peer: PeerId) {
        if let Some(transport) = self.towards(peer) {
            transport.disconnect(peer);
        }
    }

    fn write(&self, batch: &Batch, tag: Tag, deadline: Instant) -> Op {
        self.towards(batch.peer()).map_or_else(lost, |transport| transport.write(batch, tag, deadline))
    }

    fn read(&self, batch: &Batch, deadline: Instant) -> Op {
        self.towards(batch.peer()).map_or_else(lost, |transport| transport.read(batch, deadline))
    }

    fn send(&self, peer: PeerId, channel: Channel, message: Bytes, deadline: Instant) -> Op {
        self.towards(peer).map_or_else(lost, |transport| transport.send(peer, channel, message, deadline))
    }

    fn progress(&self) -> bool {
        let mut progressed = false;
        for transport in &self.transports {
            progressed |= transport.progress();
        }
        progressed
    }

    fn stats(&self) -> Stats {
        self.transports.iter().map(|transport| transport.stats()).fold(Stats::default(), |mut sum, stats| {
            sum.bytes_out += stats.bytes_out;
            sum.bytes_in += stats.bytes_in;
            sum.in_flight += stats.in_flight;
            sum.resent += stats.resent;
            sum.rails.extend(stats.rails);
            sum
        })
    }
}

/// An operation with a peer that is not connected.
fn lost() -> Op {
    Op::ended(Err(OpError::PeerLost))
}
