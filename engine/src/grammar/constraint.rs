//! One sequence's way through its grammar.
//!
//! The tokens allowed next are worked out on another thread as soon as the last token is known, and waited for
//! only when logits are there to be restricted.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use llguidance::Matcher;
use toktrie::SimpleVob;

use super::Compiled;
use super::masks::spawn;

/// Keeps a sequence's tokens within a grammar.
pub(crate) struct Constraint(Arc<Slot>);

struct Slot {
    state: Mutex<State>,
    settled: Condvar,
}

enum State {
    /// Another thread has the matcher.
    Busy,
    /// The tokens that may come next.
    Ready(Box<Matcher>, SimpleVob),
    Failed(String),
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Constraint")
    }
}

impl Constraint {
    /// Behind the `tokens` of a text, which were allowed. Works out the next ones at once, while the prompt is computed.
    pub(crate) fn new(grammar: &Compiled, tokens: Vec<u32>) -> Self {
        let slot = Slot { state: Mutex::new(State::Busy), settled: Condvar::new() };
        let constraint = Self(Arc::new(slot));
        let grammar = grammar.clone();
        constraint.advance(move || {
            let mut matcher = Box::new(grammar.matcher());
            tokens.into_iter().try_for_each(|token| consume(&mut matcher, token))?;
            Ok(matcher)
        });
        constraint
    }

    /// Makes impossible what cannot come next. Where the text is complete and nothing may follow, all but the
    /// end of the sequence.
    ///
    /// # Errors
    /// In words, when the grammar's machinery gave up on the text so far.
    pub(crate) fn restrict(&self, logits: &mut [f32]) -> Result<(), String> {
        let mut state = self.0.lock();
        while matches!(*state, State::Busy) {
            state = self.0.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match &*state {
            State::Ready(_, allowed) => forbid(allowed, logits),
            State::Failed(reason) => return Err(reason.clone()),
            State::Busy => {}
        }
        Ok(())
    }

    /// Moves on by a token that was allowed.
    pub(crate) fn accept(&self, token: u32) {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Busy) {
            State::Ready(mut matcher, _) => {
                drop(state);
                self.advance(move || {
                    consume(&mut matcher, token)?;
                    Ok(matcher)
                });
            }
            other => *state = other,
        }
    }

    fn advance(&self, step: impl FnOnce() -> Result<Box<Matcher>, String> + Send + 'static) {
        let ticket = Ticket { slot: Arc::clone(&self.0), outcome: None };
        spawn(Box::new(move || {
            let moved = step().and_then(|mut matcher| {
                let allowed = matcher.compute_mask_or_eos().map_err(|error| error.to_string())?;
                Ok(State::Ready(matcher, allowed))
            });
            ticket.settle(moved.unwrap_or_else(State::Failed));
        }));
    }
}

/// Moves on by a token. After the end any may be sampled: nobody reads it.
fn consume(matcher: &mut Matcher, token: u32) -> Result<(), String> {
    match matcher.is_stopped() {
        true => Ok(()),
        false => matcher.consume_token(token).map_err(|error| error.to_string()),
    }
}

/// Settles its slot when dropped, whatever became of the job: whoever waits is never left waiting.
struct Ticket {
    slot: Arc<Slot>,
    outcome: Option<State>,
}

impl Ticket {
    fn settle(mut self, outcome: State) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let lost = || State::Failed("the grammar's thread has ended".to_owned());
        *self.slot.lock() = self.outcome.take().unwrap_or_else(lost);
        self.slot.settled.notify_all();
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forbid(allowed: &SimpleVob, logits: &mut [f32]) {
    let words = allowed.as_slice().iter().copied().chain(std::iter::repeat(0));
    for (word, logits) in words.zip(logits.chunks_mut(32)) {
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}
