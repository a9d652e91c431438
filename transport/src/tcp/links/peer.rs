//! What is kept of one peer: the link, the rails that carry it, and the connections that are ours to open.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use mlxcel_cluster_config::Fingerprint;

use crate::core::Link;
use crate::tcp::dial::Dial;
use crate::{ConnectError, PeerLoss, Stats};

/// Who waits for a peer to be connected.
pub(super) struct Waiter {
    pub(super) deadline: Instant,
    pub(super) done: oneshot::Sender<Result<(), ConnectError>>,
}

/// One peer.
pub(super) struct Peer {
    /// Since the first rail.
    pub(super) link: Option<Link>,
    /// The name of our end of the link, and of the peer's as far as known: an end that was lost and began anew has
    /// another.
    pub(super) ours: u64,
    pub(super) theirs: Option<u64>,
    /// The key it has shown; every rail must show the same.
    pub(super) key: Option<Fingerprint>,
    /// Rails that are up, by their place in `Links::rails`.
    pub(super) rails: Vec<usize>,
    /// Rails that are down but still in use by the kernel: until they are not, nothing is fed to the link.
    pub(super) closing: usize,
    /// Since when there is no rail, and the last one was ended by the peer's system: as it does for a process that dies.
    pub(super) orphaned: Option<Instant>,
    /// How many connections we opened in all.
    pub(super) opened: u16,
    pub(super) dial: Option<Dial>,
    pub(super) waiters: Vec<Waiter>,
}

impl Peer {
    /// A peer that our end of the link to has this name.
    pub(super) fn new(ours: u64) -> Self {
        Self {
            link: None,
            ours,
            theirs: None,
            key: None,
            rails: Vec::new(),
            closing: 0,
            orphaned: None,
            opened: 0,
            dial: None,
            waiters: Vec::new(),
        }
    }

    /// How many rails are up.
    pub(super) fn rails_up(&self) -> u16 {
        u16::try_from(self.rails.len()).expect("a peer has few rails")
    }

    /// Where to open a connection now.
    pub(super) fn next_dial(&mut self, now: Instant) -> Option<SocketAddr> {
        let rails = self.rails_up();
        self.dial.as_mut()?.next(rails, now)
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let link = self.link.as_ref().and_then(Link::next_timeout);
        let dial = self.dial.as_ref().and_then(|dial| dial.next_timeout(self.rails_up()));
        let waiters = self.waiters.iter().map(|waiter| waiter.deadline);
        let orphaned = self.orphaned.map(|since| since + REPRIEVE);
        link.into_iter().chain(dial).chain(waiters).chain(orphaned).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(link) = &mut self.link
            && link.next_timeout().is_some_and(|at| at <= now)
        {
            link.handle_timeout(now);
        }
        if self.orphaned.is_some_and(|since| since + REPRIEVE <= now) {
            self.orphaned = None;
            self.abandon();
        }
        let (late, waiting) =
            std::mem::take(&mut self.waiters).into_iter().partition(|waiter| waiter.deadline <= now);
        self.waiters = waiting;
        tell(late, &Err(ConnectError::Timeout));
    }

    /// The peer is gone.
    pub(super) fn abandon(&mut self) {
        if let Some(link) = &mut self.link {
            link.abandon(PeerLoss::Broken);
        }
    }

    /// Tells whoever waits how connecting ended.
    pub(super) fn tell_waiters(&mut self, result: &Result<(), ConnectError>) {
        tell(std::mem::take(&mut self.waiters), result);
    }

    /// Whether it is neither connected nor being connected to.
    pub(super) fn is_idle(&self) -> bool {
        self.link.is_none() && self.waiters.is_empty()
    }

    pub(super) fn add_stats(&self, all: &mut Stats) {
        let Some(link) = &self.link else { return };
        let [bytes_out, bytes_in, resent] = link.totals();
        all.bytes_out += bytes_out;
        all.bytes_in += bytes_in;
        all.resent += resent;
        all.in_flight += link.in_flight();
        all.rails.extend(link.rail_stats());
    }
}

fn tell(waiters: Vec<Waiter>, result: &Result<(), ConnectError>) {
    for waiter in waiters {
        // Who no longer waits need not know.
        let _ = waiter.done.send(result.clone());
    }
}

/// How long a peer that ended all connections has to open a new one. Enough for a handshake across a continent; what
/// breaks without the peer's system knowing is given longer, by the link.
const REPRIEVE: Duration = Duration::from_millis(300);
