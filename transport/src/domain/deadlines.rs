//! Ends operations whose deadline has passed.
//!
//! One thread a domain, started with the first deadline; none where the clock is manual.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::contract::{Completion, OpError, OpState};

#[derive(Debug)]
pub(super) struct Deadlines {
    queue: Mutex<Queue>,
    changed: Condvar,
    watched: bool,
}

#[derive(Debug, Default)]
struct Queue {
    entries: BinaryHeap<Reverse<Entry>>,
    /// How many entries there were after ended ones were last thrown out.
    swept: usize,
    running: bool,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    op: Weak<OpState>,
}

impl Deadlines {
    pub(super) fn watched() -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), changed: Condvar::new(), watched: true })
    }

    pub(super) fn manual() -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), changed: Condvar::new(), watched: false })
    }

    pub(super) fn watch(self: &Arc<Self>, at: Instant, done: &Completion) {
        let mut queue = self.queue.lock();
        let sooner = queue.entries.peek().is_none_or(|Reverse(first)| at < first.at);
        queue.entries.push(Reverse(Entry { at, op: Arc::downgrade(done.state()) }));
        queue.sweep();
        if self.watched && !queue.running {
            queue.running = true;
            let deadlines = Arc::clone(self);
            let thread = std::thread::Builder::new().name("deadlines".into());
            thread.spawn(move || deadlines.run()).expect("the system lets a process have a thread");
        } else if sooner {
            self.changed.notify_one();
        }
    }

    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        self.queue.lock().expire(now)
    }

    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_one();
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        while !queue.closed {
            match queue.expire(Instant::now()) {
                Some(next) => {
                    self.changed.wait_until(&mut queue, next);
                }
                None => self.changed.wait(&mut queue),
            }
        }
    }
}

impl Queue {
    fn expire(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse(first)) = self.entries.peek() {
            if first.at > now && first.op.upgrade().is_some_and(|op| !op.is_ended()) {
                return Some(first.at);
            }
            let Reverse(first) = self.entries.pop().expect("there is a first entry");
            if let Some(op) = first.op.upgrade() {
                // Of entries passed over because they have ended this does nothing.
                op.end(Err(OpError::Timeout));
            }
        }
        None
    }

    /// Throws out what has ended when that may be half of it, so that long deadlines do not pile up.
    fn sweep(&mut self) {
        if self.entries.len() > 2 * self.swept.max(512) {
            self.entries.retain(|Reverse(entry)| entry.op.upgrade().is_some_and(|op| !op.is_ended()));
            self.swept = self.entries.len();
        }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}
