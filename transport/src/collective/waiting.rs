//! How an operation of a group waits: it drives the transport for a while, then sleeps.

use std::time::{Duration, Instant};

use futures::future::{Either, select};

use super::CollectiveError;
use crate::contract::{Op, OpError, PeerId, Transport, TransportExt, block_on};
use crate::domain::Counter;

/// What one operation waits with.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    pub(super) transport: &'a dyn Transport,
    /// How long a wait keeps a processor busy before it sleeps.
    pub(super) spin: Duration,
    /// When the operation is given up.
    pub(super) deadline: Instant,
    /// Everyone's names.
    pub(super) ranks: &'a [PeerId],
}

impl Patience<'_> {
    /// Waits until as much has been counted as is wanted.
    pub(super) fn count(&self, wanted: Wanted<'_>) -> Result<(), CollectiveError> {
        if self.spin_until(|| wanted.reached()) {
            return Ok(());
        }
        block_on(wanted.op(self.deadline)).map_err(|error| self.failed(&wanted, error))
    }

    /// Waits until one of two counters has counted what is wanted of it.
    pub(super) fn either(&self, one: Wanted<'_>, other: Wanted<'_>) -> Result<(), CollectiveError> {
        if self.spin_until(|| one.reached() || other.reached()) {
            return Ok(());
        }
        match block_on(select(one.op(self.deadline), other.op(self.deadline))) {
            Either::Left((result, _)) => result.map_err(|error| self.failed(&one, error)),
            Either::Right((result, _)) => result.map_err(|error| self.failed(&other, error)),
        }
    }

    /// Waits for a write to `rank` to be acknowledged.
    pub(super) fn written(&self, op: Op, rank: usize) -> Result<(), CollectiveError> {
        self.transport.wait_spinning(op, self.spin).map_err(|error| CollectiveError::of(rank, error))
    }

    /// Every rank's loss fails every wait: it may not be the one that is waited for.
    fn failed(&self, wanted: &Wanted<'_>, error: OpError) -> CollectiveError {
        let lost = wanted.counter.lost().and_then(|peer| self.ranks.iter().position(|rank| *rank == peer));
        CollectiveError::of(lost.filter(|_| error == OpError::PeerLost).unwrap_or(wanted.rank), error)
    }

    fn spin_until(&self, mut ready: impl FnMut() -> bool) -> bool {
        let mut begun = None;
        loop {
            if ready() {
                return true;
            }
            if !self.transport.progress() {
                std::hint::spin_loop();
            }
            if begun.get_or_insert_with(Instant::now).elapsed() > self.spin {
                return false;
            }
        }
    }
}

/// A count that is waited for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) counter: &'a Counter,
    pub(super) count: u64,
    /// Whose writes are counted.
    pub(super) rank: usize,
}

impl Wanted<'_> {
    fn reached(&self) -> bool {
        self.counter.count() >= self.count
    }

    fn op(&self, deadline: Instant) -> Op {
        self.counter.reached(self.count, deadline)
    }
}
