//! Tags that are open, and how many batches have arrived with each.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::deadlines::Deadlines;
use crate::contract::{Completion, Op, OpError, PeerId, Tag};

/// A tag is open at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tag {0} is open already; give the next attempt the next epoch")]
pub struct TagInUse(pub Tag);

#[derive(Debug, Default)]
pub(super) struct Counters {
    open: RwLock<HashMap<Tag, Arc<State>>>,
}

/// Counts batches that arrive with a tag. Its drop closes the tag: what arrives later is refused.
#[derive(Debug)]
pub struct Counter {
    state: Arc<State>,
    counters: Arc<Counters>,
    deadlines: Arc<Deadlines>,
}

#[derive(Debug)]
struct State {
    tag: Tag,
    total: AtomicU64,
    from: Vec<(PeerId, AtomicU64)>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    lost: Option<PeerId>,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    until: u64,
    done: Completion,
}

impl Counters {
    pub(super) fn open(
        counters: &Arc<Self>,
        tag: Tag,
        from: &[PeerId],
        lost: Option<PeerId>,
        deadlines: &Arc<Deadlines>,
    ) -> Result<Counter, TagInUse> {
        let from = from.iter().map(|peer| (*peer, AtomicU64::new(0))).collect();
        let waiting = Mutex::new(Waiting { lost, waiters: Vec::new() });
        let state = Arc::new(State { tag, total: AtomicU64::new(0), from, waiting });
        let mut open = counters.open.write();
        if open.contains_key(&tag) {
            return Err(TagInUse(tag));
        }
        open.insert(tag, Arc::clone(&state));
        Ok(Counter { state, counters: Arc::clone(counters), deadlines: Arc::clone(deadlines) })
    }

    pub(super) fn is_open(&self, tag: Tag, peer: PeerId) -> bool {
        self.open.read().get(&tag).is_some_and(|state| state.of(peer).is_some())
    }

    pub(super) fn arrived(&self, tag: Tag, peer: PeerId) -> bool {
        // Counted under the lock: nothing is counted, or acknowledged as counted, once the tag is closed.
        let open = self.open.read();
        let Some(state) = open.get(&tag) else { return false };
        let Some(of_peer) = state.of(peer) else { return false };
        // Release: who reads the count may read the bytes.
        of_peer.fetch_add(1, Ordering::Release);
        let total = state.total.fetch_add(1, Ordering::Release) + 1;
        state.waiting.lock().reached(total);
        true
    }

    pub(super) fn peer_lost(&self, peer: PeerId) {
        for state in self.open.read().values() {
            if state.of(peer).is_some() {
                state.waiting.lock().lose(peer);
            }
        }
    }
}

impl State {
    fn of(&self, peer: PeerId) -> Option<&AtomicU64> {
        self.from.iter().find(|(from, _)| *from == peer).map(|(_, count)| count)
    }
}

impl Waiting {
    fn reached(&mut self, total: u64) {
        self.waiters.retain(|waiter| {
            if total >= waiter.until {
                waiter.done.end(Ok(()));
            }
            total < waiter.until && !waiter.done.is_ended()
        });
    }

    fn lose(&mut self, peer: PeerId) {
        self.lost.get_or_insert(peer);
        for waiter in self.waiters.drain(..) {
            waiter.done.end(Err(OpError::PeerLost));
        }
    }
}

impl Counter {
    /// Which tag it counts.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.state.tag
    }

    /// How many batches have arrived. Their bytes may be read.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.state.total.load(Ordering::Acquire)
    }

    /// How many have arrived from one peer.
    #[must_use]
    pub fn count_from(&self, peer: PeerId) -> u64 {
        self.state.of(peer).map_or(0, |count| count.load(Ordering::Acquire))
    }

    /// The contributing peer that was lost first, if one was.
    #[must_use]
    pub fn lost(&self) -> Option<PeerId> {
        self.state.waiting.lock().lost
    }

    /// Ends well when `count` batches have arrived in all; as lost when a contributing peer is lost before that.
    pub fn reached(&self, count: u64, deadline: Instant) -> Op {
        if self.count() >= count {
            return Op::ended(Ok(()));
        }
        let (op, done) = Op::pending();
        self.deadlines.watch(deadline, &done);
        let mut waiting = self.state.waiting.lock();
        // Again, under the lock that arrivals take after counting.
        if self.count() >= count {
            done.end(Ok(()));
        } else if waiting.lost.is_some() {
            done.end(Err(OpError::PeerLost));
        } else {
            waiting.waiters.push(Waiter { until: count, done });
        }
        op
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.counters.open.write().remove(&self.state.tag);
        for waiter in self.state.waiting.lock().waiters.drain(..) {
            waiter.done.end(Err(OpError::Cancelled));
        }
    }
}
