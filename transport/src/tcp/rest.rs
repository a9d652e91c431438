//! When the transport's own thread sleeps although there may be work: while callers drive.
//!
//! A caller that spins does everything sooner than a thread that has to be woken, and on a small machine the two fight
//! for the processors. So the thread, once it notices that somebody has driven the transport since it last looked,
//! parks here until nobody does. Knows no sockets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Who drives: callers count their turns, the thread compares.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Turns that callers have taken.
    turns: AtomicU64,
    /// How many there were when a caller last said that it stops.
    ended: AtomicU64,
    parked: Mutex<bool>,
    called: Condvar,
}

impl Rest {
    /// A caller takes a turn.
    pub(super) fn take_turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// A caller stops driving, with work left to do.
    pub(super) fn stop_driving(&self) {
        self.ended.store(self.turns.load(Ordering::Relaxed), Ordering::SeqCst);
        self.call();
    }

    /// Calls the thread to work, if it is parked.
    pub(super) fn call(&self) {
        let mut parked = self.parked.lock();
        if *parked {
            *parked = false;
            self.called.notify_one();
        }
    }

    /// How many turns callers have taken: for `is_driven_since`.
    pub(super) fn turns(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }

    /// Whether callers have taken turns since there were `turns`, and may take more.
    pub(super) fn is_driven_since(&self, turns: u64) -> bool {
        let now = self.turns();
        now != turns && now != self.ended.load(Ordering::SeqCst)
    }

    /// Parks the thread for a while, or until it is called.
    pub(super) fn park(&self) {
        let mut parked = self.parked.lock();
        *parked = true;
        if self.turns() != self.ended.load(Ordering::SeqCst) {
            self.called.wait_for(&mut parked, LOOK_EVERY);
        }
        *parked = false;
    }
}

/// How soon the thread notices that a caller went away without a word; much longer than a wake-up takes.
const LOOK_EVERY: Duration = Duration::from_micros(500);

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_transport_is_driven_until_the_caller_says_otherwise() {
        let rest = Rest::default();
        let seen = rest.turns();
        assert!(!rest.is_driven_since(seen));
        rest.take_turn();
        assert!(rest.is_driven_since(seen));
        rest.stop_driving();
        assert!(!rest.is_driven_since(seen));
        rest.take_turn();
        assert!(rest.is_driven_since(seen));
    }

    #[test]
    fn a_caller_that_stops_ends_the_rest() {
        let rest = Arc::new(Rest::default());
        rest.take_turn();
        rest.stop_driving();
        let began = Instant::now();
        rest.park();
        assert!(began.elapsed() < LOOK_EVERY, "there was nobody to wait for");
    }
}
