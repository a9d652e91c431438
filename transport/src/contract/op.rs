//! An operation in progress, and the one way to wait for anything.
//!
//! Writes, reads, messages, counters that are to reach a number, channels that are to become readable: each is an `Op`,
//! to be awaited, polled, or waited for by a thread that drives its transport meanwhile (`TransportExt::wait`). Knows
//! no clock: `domain` ends operations whose deadline has passed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

/// Why the destination refused a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Denial {
    /// The key names no region, or not with this capability; the region may have been dropped.
    UnknownKey = 1,
    /// A run does not lie within its region.
    OutOfRange = 2,
    /// The region was not registered for this.
    NotAllowed = 3,
}

impl Denial {
    /// The denial that travels as `code`.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::UnknownKey, Self::OutOfRange, Self::NotAllowed]
            .into_iter()
            .find(|denial| *denial as u8 == code)
    }
}

/// How an operation ended that did not succeed. Nothing of it is counted at the destination, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OpError {
    /// The peer died, hangs or cannot be reached.
    #[error("the peer was lost")]
    PeerLost,
    /// The deadline passed. Whether the peer has counted the batch is not known.
    #[error("the operation did not end within its deadline")]
    Timeout,
    /// The destination refused it.
    #[error("{}", denial_text(*.0))]
    AccessDenied(Denial),
    /// It was given up here, or its tag is not open at the destination.
    #[error("the operation was cancelled")]
    Cancelled,
}

fn denial_text(denial: Denial) -> &'static str {
    match denial {
        Denial::UnknownKey => "the destination knows no region with this key; it may have been dropped",
        Denial::OutOfRange => "a run does not lie within the region it names",
        Denial::NotAllowed => "the region was not registered for this access",
    }
}

/// An operation that will end, with its deadline at the latest. Dropping it does not stop it; `cancel` does.
#[derive(Clone, Debug)]
pub struct Op(Arc<State>);

/// The other side of an [`Op`]: whoever ends the operation holds it. The first to end it wins.
#[derive(Clone, Debug)]
pub struct Completion(Arc<State>);

/// The right to read an operation's bytes: while one is held, nobody is told that the operation failed, and so nobody
/// changes them.
#[derive(Debug)]
pub struct Claim(Arc<State>);

#[derive(Debug)]
pub(crate) struct State {
    outcome: AtomicU8,
    claims: AtomicU32,
    waker: AtomicWaker,
}

impl Op {
    /// An operation and what ends it.
    #[must_use]
    pub fn pending() -> (Self, Completion) {
        let state = Arc::new(State {
            outcome: AtomicU8::new(PENDING),
            claims: AtomicU32::new(0),
            waker: AtomicWaker::new(),
        });
        (Self(Arc::clone(&state)), Completion(state))
    }

    /// An operation that has ended already.
    #[must_use]
    pub fn ended(result: Result<(), OpError>) -> Self {
        let (op, done) = Self::pending();
        done.end(result);
        op
    }

    /// How it ended, if it has. A failure is not told while its bytes are being read.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<(), OpError>> {
        let outcome = decode(self.0.outcome.load(Ordering::SeqCst))?;
        let settled = outcome.is_ok() || self.0.claims.load(Ordering::SeqCst) == 0;
        settled.then_some(outcome)
    }

    /// Ends it now. Bytes already on their way may still arrive at the destination, and may be counted there.
    pub fn cancel(&self) {
        self.0.end(Err(OpError::Cancelled));
    }
}

/// One task at a time may await an operation: the last to poll it is woken.
impl Future for Op {
    type Output = Result<(), OpError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.outcome() {
            return Poll::Ready(result);
        }
        self.0.waker.register(context.waker());
        self.outcome().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Completion {
    /// Ends the operation, unless it has ended; whether it had not.
    pub fn end(&self, result: Result<(), OpError>) -> bool {
        self.0.end(result)
    }

    /// Whether it has ended: by this side, by its deadline or by `cancel`.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.0.outcome.load(Ordering::Acquire) != PENDING
    }

    /// Claims the operation's bytes, unless it has ended: its owner may have changed them since.
    #[must_use]
    pub fn claim(&self) -> Option<Claim> {
        self.0.claims.fetch_add(1, Ordering::SeqCst);
        let claim = Claim(Arc::clone(&self.0));
        (self.0.outcome.load(Ordering::SeqCst) == PENDING).then_some(claim)
    }

    pub(crate) fn state(&self) -> &Arc<State> {
        &self.0
    }
}

impl Claim {
    /// Whether the operation has ended meanwhile, and its owner waits for the claim to be given back.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.0.is_ended()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.0.claims.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_ended() {
            self.0.waker.wake();
        }
    }
}

impl State {
    pub(crate) fn end(&self, result: Result<(), OpError>) -> bool {
        let code = encode(result);
        let first = self.outcome.compare_exchange(PENDING, code, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if first {
            self.waker.wake();
        }
        first
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.outcome.load(Ordering::Acquire) != PENDING
    }
}

const PENDING: u8 = 0;
const DONE: u8 = 1;
const LOST: u8 = 2;
const LATE: u8 = 3;
const CANCELLED: u8 = 4;
const DENIED: u8 = 16;

fn encode(result: Result<(), OpError>) -> u8 {
    match result {
        Ok(()) => DONE,
        Err(OpError::PeerLost) => LOST,
        Err(OpError::Timeout) => LATE,
        Err(OpError::Cancelled) => CANCELLED,
        Err(OpError::AccessDenied(denial)) => DENIED + denial as u8,
    }
}

fn decode(code: u8) -> Option<Result<(), OpError>> {
    match code {
        PENDING => None,
        DONE => Some(Ok(())),
        LOST => Some(Err(OpError::PeerLost)),
        LATE => Some(Err(OpError::Timeout)),
        CANCELLED => Some(Err(OpError::Cancelled)),
        denied => {
            let denial = Denial::from_code(denied - DENIED).expect("only denials are stored above DENIED");
            Some(Err(OpError::AccessDenied(denial)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_read_as_it_was_stored() {
        let denials = [Denial::UnknownKey, Denial::OutOfRange, Denial::NotAllowed].map(OpError::AccessDenied);
        let errors = [OpError::PeerLost, OpError::Timeout, OpError::Cancelled].into_iter().chain(denials);
        for result in errors.map(Err).chain([Ok(())]) {
            assert_eq!(Op::ended(result).outcome(), Some(result));
        }
    }

    #[test]
    fn the_first_end_counts() {
        let (op, done) = Op::pending();
        assert_eq!(op.outcome(), None);
        op.cancel();
        assert!(!done.end(Ok(())));
        assert_eq!(op.outcome(), Some(Err(OpError::Cancelled)));
    }

    #[test]
    fn a_failure_is_told_when_nobody_reads_the_bytes_any_more() {
        let (op, done) = Op::pending();
        let claim = done.claim().expect("it has not ended");
        op.cancel();
        assert_eq!(op.outcome(), None);
        assert!(claim.is_overdue());
        assert!(done.claim().is_none(), "nobody begins to read them");
        drop(claim);
        assert_eq!(op.outcome(), Some(Err(OpError::Cancelled)));
    }

    #[test]
    fn whoever_awaits_is_woken() {
        let (op, done) = Op::pending();
        let waiting = std::thread::spawn(move || futures::executor::block_on(op));
        done.end(Ok(()));
        assert_eq!(waiting.join().expect("the thread does not panic"), Ok(()));
    }
}
