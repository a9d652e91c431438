//! The waiting and the running sequences, and who holds which blocks.
//!
//! Takes what happens: a sequence comes, gets a token, ends. What the next step computes is worked out in
//! `planning`. Knows neither tensors nor clocks: `serving` says what was computed and what time it is.

use std::collections::BTreeSet;
use std::time::Duration;

use super::admission::{Admission, AdmissionError};
use super::member::Running;
use super::plan::{SequenceId, Token};
use super::queue::Queue;
use super::service::{OUTPUT_COST, Service};
use crate::blocks::{BLOCK_TOKENS, BlockStore};

/// What one engine can do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Most sequences running.
    pub max_sequences: usize,
    /// Most tokens in one step; decode tokens count, and are never held back.
    pub step_tokens: usize,
    /// After how long sequences that are passed over count as one priority higher.
    pub ageing: Duration,
    /// Steps that are computed at a time, each by another stage of a pipeline: a step decodes so large a part of the
    /// running sequences, and the others are for the steps beside it.
    pub stages: usize,
    /// Steps of so many rows and fewer multiply a row to the same bits whatever the others are, where there is such a
    /// number: output that has to be computed again is, in steps no larger, where nothing else is to be computed, so
    /// that what follows it is what followed it before.
    pub exact_rows: Option<usize>,
}

/// The waiting and the running sequences, and their blocks.
///
/// # How sequences are kept from starving
/// The first in rank never gives way and fits the pool alone, so it ends; then the next one is first. What waits
/// rises (see `queue`), and keeps the level it had risen to while it runs.
///
/// # What a step in flight means
/// A plan may be made while the step before runs. A sequence that gives way or is removed then has blocks that the
/// running step still reads and writes, and that the next one may give to another: steps must run in the order
/// of their plans, on one stream. A sequence that gave way is admitted again by the plan after the next one at the
/// earliest, and not before every step that computes tokens of it has been read.
#[derive(Debug)]
pub struct Scheduler {
    pub(super) limits: SchedulerLimits,
    pub(super) store: BlockStore,
    pub(super) queue: Queue,
    pub(super) running: Vec<Running>,
    pub(super) service: Service,
    deadlines: BTreeSet<(Duration, SequenceId)>,
    /// Plans made.
    pub(super) plans: u64,
    pub(super) preempted: u64,
}

impl Scheduler {
    /// An empty scheduler that hands out the blocks of `store`.
    pub fn new(limits: SchedulerLimits, store: BlockStore) -> Self {
        Self {
            limits,
            store,
            queue: Queue::new(limits.ageing),
            running: Vec::new(),
            service: Service::default(),
            deadlines: BTreeSet::new(),
            plans: 0,
            preempted: 0,
        }
    }

    /// Queues a sequence.
    ///
    /// # Errors
    /// When it could never run.
    pub fn add(&mut self, admission: Admission) -> Result<(), AdmissionError> {
        if admission.prompt.is_empty() {
            return Err(AdmissionError::EmptyPrompt);
        }
        let (needed, available) = (admission.most_tokens(), self.store.total() * BLOCK_TOKENS);
        if needed > available {
            return Err(AdmissionError::LargerThanCache { needed, available });
        }
        let running = &self.running;
        let queue = &self.queue;
        self.service.forget_idle(|client| {
            running.iter().any(|entry| entry.member.client == *client)
                || queue.clients().any(|other| other == client)
        });
        self.deadlines.extend(admission.deadline.map(|at| (at, admission.sequence)));
        let now = admission.arrival;
        self.queue.insert(admission.into(), &mut self.service, now);
        Ok(())
    }

    /// Forgets the sequences whose deadline has passed, waiting or running, and names them.
    pub fn expire(&mut self, now: Duration) -> Vec<SequenceId> {
        let mut expired = Vec::new();
        while let Some(&(deadline, sequence)) = self.deadlines.first()
            && deadline <= now
        {
            self.remove(sequence);
            expired.push(sequence);
        }
        expired
    }

    /// The token that follows `sequence`: sampled by a step and read, or awaited from one that still runs. A token
    /// awaited is told again when it has been read.
    pub fn append(&mut self, sequence: SequenceId, token: Token) {
        let running = self.running.iter_mut().find(|entry| entry.member.sequence == sequence);
        let member = running.map(|entry| &mut entry.member);
        if let Some(member) = member.or_else(|| self.queue.get_mut(sequence)) {
            member.append(token);
        }
    }

    /// Sequences whose next token is known and not planned: guesses can be made behind it.
    pub fn ready_to_guess(&self) -> Vec<SequenceId> {
        let ready = |entry: &&Running| entry.pending() == 1 && entry.member.awaited == 0;
        self.running.iter().filter(ready).map(|entry| entry.member.sequence).collect()
    }

    /// Prompt and known output of a sequence that runs; nothing of any other.
    pub fn tokens_of(&self, sequence: SequenceId) -> &[u32] {
        let running = self.running.iter().find(|entry| entry.member.sequence == sequence);
        running.map_or(&[], |entry| entry.member.tokens.as_slice())
    }

    /// Tokens that may follow the last known one of `sequence`, to be checked by the step that computes it.
    pub fn guess(&mut self, sequence: SequenceId, guesses: Vec<u32>) {
        if let Some(entry) = self.running.iter_mut().find(|entry| entry.member.sequence == sequence) {
            entry.guesses = guesses;
        }
    }

    /// Of the guesses that the last step checked for `sequence`, the first `kept` were right; their tokens have been
    /// appended, and need not be computed again. The keys and values of the others are overwritten.
    pub fn keep(&mut self, sequence: SequenceId, kept: usize) {
        if let Some(entry) = self.running.iter_mut().find(|entry| entry.member.sequence == sequence) {
            entry.planned += kept;
            self.service.charge(&entry.member.client, OUTPUT_COST * kept as u64);
        }
    }

    /// A step has run that computed `sequence` up to its first `tokens` tokens: others may share them, unless it has
    /// given its blocks up since. Told once for each step planned, before the token that the step sampled.
    pub fn computed(&mut self, sequence: SequenceId, tokens: usize) {
        let Some(entry) = self.running.iter_mut().find(|entry| entry.member.sequence == sequence) else {
            if let Some(member) = self.queue.get_mut(sequence) {
                member.in_flight = member.in_flight.saturating_sub(1);
            }
            return;
        };
        entry.member.in_flight = entry.member.in_flight.saturating_sub(1);
        let known = tokens.min(entry.member.tokens.len());
        if known / BLOCK_TOKENS > entry.computed / BLOCK_TOKENS {
            self.store.publish(&mut entry.table, &entry.member.tokens[..known]);
        }
        entry.computed = entry.computed.max(known);
    }

    /// Forgets a sequence, waiting or running, and takes its blocks back.
    pub fn remove(&mut self, sequence: SequenceId) {
        let at = self.running.iter().position(|entry| entry.member.sequence == sequence);
        let member = match at {
            Some(at) => {
                let Running { member, table, .. } = self.running.swap_remove(at);
                self.store.release(table);
                Some(member)
            }
            None => self.queue.remove(sequence, &mut self.service),
        };
        if let Some(deadline) = member.and_then(|member| member.deadline) {
            self.deadlines.remove(&(deadline, sequence));
        }
    }

    /// Sequences admitted.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences waiting for room.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The pool.
    pub fn store(&self) -> &BlockStore {
        &self.store
    }

    /// Most sequences that run at once.
    pub fn max_sequences(&self) -> usize {
        self.limits.max_sequences
    }

    /// How often a sequence had to give its blocks up.
    pub fn preempted(&self) -> u64 {
        self.preempted
    }
}

#[cfg(test)]
impl Scheduler {
    /// Checks what must hold between calls.
    pub(super) fn check(&self) {
        self.store.check(self.running.iter().map(|entry| &entry.table));
        for entry in &self.running {
            let known = entry.member.tokens.len();
            assert!(entry.computed <= entry.planned && entry.planned <= known + entry.member.awaited);
            assert!(entry.planned <= entry.table.tokens(), "every planned token has room");
        }
    }
}
