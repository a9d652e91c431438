//! The worker's way out: engines push without waiting, one thread writes.
//!
//! Knows nothing of what the events mean beyond how they join while they wait (`coalesce`). When
//! the stream breaks, later events are dropped and the error kept for the end.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mlxcel_protocol::v1::WorkerEvent;

use crate::coalesce::CoalescingQueue;
use crate::frames::{self, FrameError};

/// Cheap to clone; every clone is the same outbox.
#[derive(Clone)]
pub(super) struct Outbox {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: CoalescingQueue<WorkerEvent>,
    /// The writer has taken an event that is not on its way yet.
    writing: bool,
    finishing: bool,
    /// The stream is no longer written; says why until someone asks.
    closed: bool,
    error: Option<FrameError>,
}

impl Outbox {
    pub(super) fn start(output: impl Write + Send + 'static) -> Self {
        let state = State {
            waiting: CoalescingQueue::new(),
            writing: false,
            finishing: false,
            closed: false,
            error: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let writer = Arc::clone(&shared);
        thread::spawn(move || writer.write_all(output));
        Self { shared }
    }

    pub(super) fn push(&self, event: WorkerEvent) {
        let mut state = self.shared.lock();
        if !state.closed {
            state.waiting.push(event);
            self.shared.changed.notify_all();
        }
    }

    /// Waits until everything pushed is written, at most `patience`.
    pub(super) fn finish(&self, patience: Duration) -> Result<(), FrameError> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        state.finishing = true;
        self.shared.changed.notify_all();
        while !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.error.take().map_or(Ok(()), Err)
    }
}

impl Shared {
    /// A panic elsewhere leaves the queue whole: every change to it is one call.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut output: impl Write) {
        let result = self.write_until_finished(&mut output);
        let mut state = self.lock();
        state.closed = true;
        state.error = result.err();
        self.changed.notify_all();
    }

    fn write_until_finished(&self, output: &mut impl Write) -> Result<(), FrameError> {
        loop {
            let mut state = self.lock();
            let event = loop {
                if let Some(event) = state.waiting.pop() {
                    break event;
                }
                if state.writing {
                    state.writing = false;
                    drop(state);
                    output.flush()?;
                    state = self.lock();
                } else if state.finishing {
                    return Ok(());
                } else {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            };
            state.writing = true;
            drop(state);
            frames::write(output, &event)?;
        }
    }
}
