//! The links of a transport, each with the connection that carries it: what one lock guards.
//!
//! A link lives and dies with its one queue pair. What is said on a link is `mlxcel_transport::core`'s affair; how it
//! gets there, `connection`'s; who may open one, `meet`'s.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlxcel_cluster_config::Fingerprint;
use mlxcel_transport::core::{Link, LinkEvent};
use mlxcel_transport::{Batch, Completion, Domain, OpError, PeerId, PeerLoss, Stats};

use crate::connection::{Connection, Trouble};
use crate::socket::Socket;

/// Which link, of all there have been: our end's name tells those to one peer apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) peer: PeerId,
    pub(crate) ours: u64,
}

/// A peer that is connected.
pub(crate) struct Peer {
    pub(crate) name: Name,
    /// The name of the peer's end.
    pub(crate) theirs: u64,
    /// The key that the peer has shown, where ends show keys.
    pub(crate) key: Option<Fingerprint>,
    pub(crate) link: Link,
    pub(crate) connection: Connection,
    /// Where the two ends met: closed when one of them dies.
    pub(crate) socket: Socket,
    /// When to look for regions that have been dropped.
    pub(crate) look_at: Instant,
}

/// A link that is no more, whose good-bye is on its way.
struct Parting {
    link: Link,
    connection: Connection,
    _socket: Socket,
    until: Instant,
}

/// All links.
pub(crate) struct Books {
    pub(crate) domain: Arc<Domain>,
    pub(crate) silence_limit: Duration,
    pub(crate) peers: HashMap<PeerId, Peer>,
    /// How many calls to a peer are under way.
    pub(crate) calling: HashMap<PeerId, usize>,
    parting: Vec<Parting>,
    /// How many names our ends of links have had.
    incarnations: u64,
    /// What links that are no more did.
    past: Stats,
}

impl Books {
    pub(crate) fn new(domain: &Arc<Domain>, silence_limit: Duration) -> Self {
        Self {
            domain: Arc::clone(domain),
            silence_limit,
            peers: HashMap::new(),
            calling: HashMap::new(),
            parting: Vec::new(),
            incarnations: 0,
            past: Stats::default(),
        }
    }

    /// A name for our end of a link, larger than all before.
    pub(crate) const fn new_incarnation(&mut self) -> u64 {
        self.incarnations += 1;
        self.incarnations
    }

    /// Has the link to a peer start an operation, which ends at once if there is no link.
    pub(crate) fn start(
        &mut self,
        peer: PeerId,
        done: Completion,
        start: impl FnOnce(&mut Link, Completion),
    ) {
        match self.peers.get_mut(&peer) {
            Some(known) => start(&mut known.link, done),
            None => {
                done.end(Err(OpError::PeerLost));
            }
        }
        self.turn(peer, Instant::now());
    }

    /// Has a batch be read.
    pub(crate) fn read(&mut self, batch: &Batch, done: Completion) {
        let peer = batch.peer();
        match self.peers.get_mut(&peer) {
            Some(known) => known.connection.read(&mut known.link, batch, done),
            None => {
                done.end(Err(OpError::PeerLost));
            }
        }
        self.turn(peer, Instant::now());
    }

    /// Gives the device what a peer's link has to send.
    pub(crate) fn turn(&mut self, peer: PeerId, now: Instant) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.turn(now, false);
            self.settle(peer, now);
        }
    }

    /// Takes what all devices have completed, and gives them more; whether there was anything.
    pub(crate) fn work(&mut self, now: Instant) -> bool {
        let mut worked = false;
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            if let Some(known) = self.peers.get_mut(&peer) {
                worked |= known.turn(now, true);
                self.settle(peer, now);
            }
        }
        self.part_further(now);
        worked
    }

    /// Lets time pass; when the next is to.
    pub(crate) fn handle_timeouts(&mut self, now: Instant) -> Option<Instant> {
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            if let Some(known) = self.peers.get_mut(&peer) {
                known.handle_timeout(now);
                known.turn(now, false);
                self.settle(peer, now);
            }
        }
        self.part_further(now);
        let links = self.peers.values().filter_map(|peer| peer.link.next_timeout());
        links.chain(self.parting.iter().map(|parting| parting.until)).min()
    }

    /// Has every completion from now on cause an event.
    pub(crate) fn arm(&mut self, now: Instant) {
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            if let Some(known) = self.peers.get_mut(&peer)
                && let Err(trouble) = known.connection.arm()
            {
                known.fail(&trouble);
                self.settle(peer, now);
            }
        }
        // Those that part are looked at again soon.
        self.parting.iter().for_each(|parting| drop(parting.connection.arm()));
    }

    /// The sockets of all links: who closes one is gone.
    pub(crate) fn sockets(&self) -> Vec<(RawFd, Name)> {
        self.peers.values().map(|peer| (peer.socket.descriptor(), peer.name)).collect()
    }

    /// A link's socket is closed, or speaks out of turn.
    pub(crate) fn socket_closed(&mut self, name: Name, now: Instant) {
        if self.peers.get(&name.peer).is_some_and(|peer| peer.name == name) {
            self.lose(name.peer, PeerLoss::Broken, now);
        }
    }

    /// Ends the link to a peer.
    pub(crate) fn lose(&mut self, peer: PeerId, why: PeerLoss, now: Instant) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.link.abandon(why);
            self.settle(peer, now);
        }
    }

    /// Says good-bye to a peer.
    pub(crate) fn part_from(&mut self, peer: PeerId, now: Instant) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.link.close();
            self.settle(peer, now);
        }
    }

    /// Whether nobody is connected, and no good-bye on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.parting.is_empty()
    }

    /// What all links have done and are doing.
    pub(crate) fn stats(&self) -> Stats {
        let mut all = self.past.clone();
        for peer in self.peers.values() {
            add(&mut all, &peer.link, &peer.connection);
            all.in_flight += peer.link.in_flight() + peer.connection.read_totals().0;
            all.rails.extend(peer.link.rail_stats());
        }
        all
    }

    /// Does what a link wants done.
    fn settle(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        while let Some(event) = peer.link.poll() {
            match event {
                // The only one: there is nothing to go on with.
                LinkEvent::CloseRail(..) => peer.link.abandon(PeerLoss::Broken),
                LinkEvent::Lost(why) => return self.forget(id, why, now),
            }
        }
    }

    fn forget(&mut self, id: PeerId, why: PeerLoss, now: Instant) {
        let Some(peer) = self.peers.remove(&id) else { return };
        tracing::debug!(target: "mlxcel::transport::rdma", peer = %id, %why, "a peer is lost");
        add(&mut self.past, &peer.link, &peer.connection);
        let Peer { mut link, mut connection, socket, .. } = peer;
        connection.part();
        if why == PeerLoss::Closed && connection.give(&mut link, now).is_ok() {
            self.parting.push(Parting { link, connection, _socket: socket, until: now + PARTING });
        }
    }

    /// Lets go of those whose good-bye has arrived, or has had its time.
    fn part_further(&mut self, now: Instant) {
        self.parting.retain_mut(|parting| {
            let Parting { link, connection, .. } = parting;
            let went = connection.take(link, now).and_then(|_| connection.give(link, now));
            went.is_ok() && now < parting.until && !parting.connection.is_idle()
        });
    }
}

impl Peer {
    /// Takes what the device has completed, if asked to, and gives it more; whether there was anything.
    fn turn(&mut self, now: Instant, take: bool) -> bool {
        let Self { link, connection, .. } = self;
        let taken = if take { connection.take(link, now) } else { Ok(false) };
        let worked = taken.and_then(|taken| connection.give(link, now).map(|given| taken || given));
        worked.unwrap_or_else(|trouble| {
            self.fail(&trouble);
            true
        })
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.link.handle_timeout(now);
        if now >= self.look_at {
            self.look_at = now + LOOKS;
            if let Err(trouble) = self.connection.look(now) {
                self.fail(&trouble);
            }
        }
    }

    fn fail(&mut self, trouble: &Trouble) {
        tracing::debug!(target: "mlxcel::transport::rdma", peer = %self.name.peer, %trouble, "a connection broke");
        match trouble {
            Trouble::Protocol(error) => self.link.fail(*error),
            Trouble::Device(_) | Trouble::Refused(_) => self.link.abandon(PeerLoss::Broken),
        }
    }
}

fn add(all: &mut Stats, link: &Link, connection: &Connection) {
    let [bytes_out, bytes_in, resent] = link.totals();
    all.bytes_out += bytes_out;
    all.bytes_in += bytes_in + connection.read_totals().1;
    all.resent += resent;
}

/// How often regions that have been dropped are looked for.
const LOOKS: Duration = Duration::from_millis(100);
/// How long a good-bye may take to arrive.
const PARTING: Duration = Duration::from_millis(200);
