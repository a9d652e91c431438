//! One lock, and who takes it: callers do their own work at once where they can, and leave it in line where they cannot.
//!
//! A caller that finds the lock free moves its bytes on its own thread, which costs no wake-up. One that does not
//! leaves its command to whoever holds the lock, who looks at the line after letting go: so nobody waits for the lock,
//! and no command waits for longer than the lock is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mio::Waker;
use parking_lot::{Mutex, MutexGuard};

use super::links::{Command, Links};
use super::rest::Rest;
use crate::Domain;

/// What callers and the transport's own thread share.
pub(super) struct Endpoint {
    pub(super) domain: Arc<Domain>,
    links: Mutex<Links>,
    line: Mutex<Vec<Command>>,
    waiting: AtomicBool,
    pub(super) rest: Rest,
    waker: Waker,
    closed: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(domain: Arc<Domain>, links: Links, waker: Waker) -> Self {
        Self {
            domain,
            links: Mutex::new(links),
            line: Mutex::default(),
            waiting: AtomicBool::new(false),
            rest: Rest::default(),
            waker,
            closed: AtomicBool::new(false),
        }
    }

    /// Does what a caller wants, or has it done.
    pub(super) fn submit(&self, command: Command) {
        if let Some(mut links) = self.links.try_lock() {
            let now = Instant::now();
            self.obey_line(&mut links, now);
            links.obey(command, now);
            self.finish(links, now);
        } else {
            self.line.lock().push(command);
            self.waiting.store(true, Ordering::SeqCst);
        }
        self.work_off();
    }

    /// Moves what can be moved now, on behalf of a caller that waits; whether anything was.
    pub(super) fn progress(&self) -> bool {
        self.rest.take_turn();
        let Some(mut links) = self.links.try_lock() else { return false };
        let now = Instant::now();
        let mut any = self.obey_line(&mut links, now);
        any |= links.read_all(now);
        links.retry_blocked();
        links.handle_timeouts(now);
        self.finish(links, now);
        self.work_off();
        any
    }

    /// The lock, for the transport's own thread.
    pub(super) fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock()
    }

    /// Does what waits in line; whether anything did.
    pub(super) fn obey_line(&self, links: &mut Links, now: Instant) -> bool {
        if !self.waiting.swap(false, Ordering::SeqCst) {
            return false;
        }
        let commands = std::mem::take(&mut *self.line.lock());
        for command in commands {
            links.obey(command, now);
        }
        true
    }

    /// Does what has come into line while the lock was held.
    pub(super) fn work_off(&self) {
        while self.waiting.load(Ordering::SeqCst) {
            let Some(mut links) = self.links.try_lock() else { return };
            let now = Instant::now();
            self.obey_line(&mut links, now);
            self.finish(links, now);
        }
    }

    /// Ends the transport's own thread, after good-byes.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.rest.call();
        self.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Sends what there is to send and lets go of the lock; wakes the transport's own thread if only it can go on.
    fn finish(&self, mut links: MutexGuard<'_, Links>, now: Instant) {
        links.pump(now);
        let wanted = links.wants_thread();
        drop(links);
        if wanted {
            self.rest.call();
            self.wake();
        }
    }

    fn wake(&self) {
        // The queue's own descriptor cannot be full, and fails only when it is closed.
        let _ = self.waker.wake();
    }
}
