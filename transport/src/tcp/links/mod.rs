//! All links of a transport and their rails: what one lock guards.
//!
//! Whoever holds the lock moves bytes: a caller that writes, a caller that spins, the transport's own thread. What is
//! said on a link is `core::Link`'s affair, how sockets are waited for the drivers' (`poll`, `uring`).

mod command;
mod flow;
mod meet;
mod peer;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use super::config::TcpConfig;
use super::rail::Rail;
use crate::{Domain, PeerId, Stats};

pub(super) use command::Command;
pub(super) use meet::{Met, Reply};
use peer::Peer;

/// All links and rails.
pub(super) struct Links {
    domain: Arc<Domain>,
    config: Arc<Settings>,
    kick: Arc<dyn Fn(PeerId) + Send + Sync>,
    peers: HashMap<PeerId, Peer>,
    pub(super) rails: Slab<Rail>,
    /// Peers whose links may have something to send or to say.
    touched: Vec<PeerId>,
    /// Rails whose sockets may have more than was read.
    unread: Vec<usize>,
    /// Connections may have to be opened.
    pub(super) dials_due: bool,
    /// A socket took less than it was offered since this was last looked at.
    pub(super) any_blocked: bool,
    /// Whether the driver is told by a call, not by the system, that there is something to write.
    pub(super) blocked_want_thread: bool,
    /// Rails that no driver knows yet.
    newborn: Vec<usize>,
    /// How many ends of links there have been.
    incarnations: u64,
    /// When the transport's own thread looks again, while it sleeps.
    pub(super) asleep_until: Option<Option<Instant>>,
    /// What links that are no more did.
    past: Stats,
}

/// What links are told of the transport's configuration.
pub(super) struct Settings {
    pub(super) rails: u16,
    pub(super) silence_limit: std::time::Duration,
}

impl Settings {
    pub(super) fn of(config: &TcpConfig) -> Self {
        Self { rails: config.rails, silence_limit: config.silence_limit }
    }
}

impl Links {
    /// No links yet. `kick` is called when a peer is to be told something new.
    pub(super) fn new(
        domain: &Arc<Domain>,
        settings: Settings,
        kick: Arc<dyn Fn(PeerId) + Send + Sync>,
    ) -> Self {
        Self {
            domain: Arc::clone(domain),
            config: Arc::new(settings),
            kick,
            peers: HashMap::new(),
            rails: Slab::new(),
            touched: Vec::new(),
            unread: Vec::new(),
            dials_due: false,
            any_blocked: false,
            blocked_want_thread: false,
            newborn: Vec::new(),
            incarnations: 0,
            asleep_until: None,
            past: Stats::default(),
        }
    }

    /// When time alone changes something next.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.peers.values().filter_map(Peer::next_timeout).min()
    }

    /// Time has passed.
    pub(super) fn handle_timeouts(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (id, peer) in &mut self.peers {
            if peer.next_timeout().is_some_and(|at| at <= now) {
                peer.handle_timeout(now);
                due.push(*id);
            }
        }
        for id in due {
            // Now: a link that was lost is not to be found by whoever comes next.
            self.settle(id, now);
            self.touch(id);
        }
        #[cfg(target_os = "linux")]
        self.close_overdue(now);
    }

    /// When the transport's own thread has to look again; it is about to sleep until then.
    pub(super) fn fall_asleep(&mut self, other: Option<Instant>, now: Instant) -> Option<Instant> {
        let own = self.next_timeout();
        let busy = !self.unread.is_empty() || self.dials_due || !self.newborn.is_empty();
        let until = if busy { Some(now) } else { own.into_iter().chain(other).min() };
        self.any_blocked = false;
        self.asleep_until = Some(until);
        until
    }

    /// Whether the transport's own thread has to look before it would by itself.
    pub(super) fn wants_thread(&mut self) -> bool {
        let Some(until) = self.asleep_until else { return false };
        let sooner = match (self.next_timeout(), until) {
            (Some(next), Some(until)) => next < until,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let wanted = sooner || self.dials_due || !self.newborn.is_empty() || !self.unread.is_empty();
        let wanted = wanted || (self.any_blocked && self.blocked_want_thread);
        if wanted {
            // Once is enough.
            self.asleep_until = None;
            self.any_blocked = false;
        }
        wanted
    }

    /// Rails that a driver has yet to wait for.
    pub(super) fn take_newborn(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.newborn)
    }

    /// Rails whose sockets may have more than was read.
    pub(super) fn take_unread(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.unread)
    }

    /// Says good-bye to everybody.
    pub(super) fn close(&mut self) {
        for (id, peer) in &mut self.peers {
            if let Some(link) = &mut peer.link {
                link.close();
                self.touched.push(*id);
            }
        }
    }

    /// What all links have done and are doing.
    pub(super) fn stats(&self) -> Stats {
        let mut all = self.past.clone();
        for peer in self.peers.values() {
            peer.add_stats(&mut all);
        }
        all
    }

    fn touch(&mut self, peer: PeerId) {
        if !self.touched.contains(&peer) {
            self.touched.push(peer);
        }
    }
}
