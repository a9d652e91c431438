//! Continuous batching: decode first, then prefill chunks under a token budget.
//!
//! Admission is first come, first served, against a count of sequences and of KV tokens reserved
//! for the whole life of a sequence, so that a running sequence never runs out of cache.
//! Knows no clock; `serving` decides when to step.

use std::collections::VecDeque;

use super::plan::{SequenceId, Span, StepPlan, Token};

/// What one engine can hold and do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Most sequences in one step.
    pub max_sequences: usize,
    /// Most tokens in one step; decode tokens count, and are never held back.
    pub step_tokens: usize,
    /// Tokens the KV cache can hold over all sequences.
    pub kv_tokens: usize,
}

/// Why a sequence can never be admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// There is nothing to continue.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// The sequence alone is larger than the cache.
    #[error(
        "prompt and output need {needed} tokens of KV cache, of which there are {available}; \
         shorten the prompt, lower max_tokens or give the engine more memory"
    )]
    LargerThanCache {
        /// Tokens of prompt and output together.
        needed: usize,
        /// Tokens the cache holds.
        available: usize,
    },
}

/// A sequence to be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Its name.
    pub sequence: SequenceId,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Most tokens it will generate.
    pub max_new_tokens: usize,
}

/// The queue of waiting sequences and the set of running ones.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    waiting: VecDeque<Admission>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    sequence: SequenceId,
    /// Tokens known but not yet computed.
    pending: VecDeque<Token>,
    /// Tokens computed, all in the KV cache.
    computed: usize,
    reserved: usize,
}

impl Scheduler {
    /// An empty scheduler.
    pub fn new(limits: SchedulerLimits) -> Self {
        Self { limits, waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Queues a sequence.
    ///
    /// # Errors
    /// When it could never run.
    pub fn add(&mut self, admission: Admission) -> Result<(), AdmissionError> {
        if admission.prompt.is_empty() {
            return Err(AdmissionError::EmptyPrompt);
        }
        let needed = admission.reserved();
        if needed > self.limits.kv_tokens {
            return Err(AdmissionError::LargerThanCache { needed, available: self.limits.kv_tokens });
        }
        self.waiting.push_back(admission);
        Ok(())
    }

    /// Admits what fits and plans the next step; empty when there is nothing to do.
    /// Every planned token counts as computed from here on.
    pub fn plan(&mut self) -> StepPlan {
        self.admit();
        let mut budget = self.limits.step_tokens.max(1);
        let mut spans = Vec::with_capacity(self.running.len());
        for entry in self.running.iter_mut().filter(|entry| entry.pending.len() == 1) {
            spans.push(entry.take(1));
            budget = budget.saturating_sub(1);
        }
        for entry in self.running.iter_mut().filter(|entry| entry.pending.len() > 1) {
            if budget == 0 {
                break;
            }
            let chunk = entry.pending.len().min(budget);
            budget -= chunk;
            spans.push(entry.take(chunk));
        }
        StepPlan { spans }
    }

    /// The token that follows `sequence`: sampled after a planned step, or awaited from one that
    /// still runs.
    pub fn append(&mut self, sequence: SequenceId, token: Token) {
        if let Some(entry) = self.running.iter_mut().find(|entry| entry.sequence == sequence) {
            entry.pending.push_back(token);
        }
    }

    /// Forgets a sequence, waiting or running.
    pub fn remove(&mut self, sequence: SequenceId) {
        self.waiting.retain(|entry| entry.sequence != sequence);
        self.running.retain(|entry| entry.sequence != sequence);
    }

    /// Sequences admitted.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences waiting for room.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn admit(&mut self) {
        let mut reserved: usize = self.running.iter().map(|entry| entry.reserved).sum();
        while let Some(next) = self.waiting.front() {
            let fits = self.running.len() < self.limits.max_sequences
                && reserved + next.reserved() <= self.limits.kv_tokens;
            if !fits {
                return;
            }
            reserved += next.reserved();
            if let Some(admission) = self.waiting.pop_front() {
                self.running.push(Running::from(admission));
            }
        }
    }
}

impl Admission {
    fn reserved(&self) -> usize {
        self.prompt.len().saturating_add(self.max_new_tokens)
    }
}

impl From<Admission> for Running {
    fn from(admission: Admission) -> Self {
        Self {
            sequence: admission.sequence,
            computed: 0,
            reserved: admission.reserved(),
            pending: admission.prompt.into_iter().map(Token::Known).collect(),
        }
    }
}

impl Running {
    fn take(&mut self, count: usize) -> Span {
        let tokens: Vec<Token> = self.pending.drain(..count).collect();
        let start = self.computed;
        self.computed += tokens.len();
        Span { sequence: self.sequence, tokens, start, sample: self.pending.is_empty() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> SchedulerLimits {
        SchedulerLimits { max_sequences: 3, step_tokens: 8, kv_tokens: 64 }
    }

    fn admission(id: u64, prompt: usize, max_new_tokens: usize) -> Admission {
        Admission { sequence: SequenceId(id), prompt: vec![1; prompt], max_new_tokens }
    }

    #[test]
    fn a_long_prompt_is_prefilled_in_chunks_and_sampled_at_its_end() {
        let mut scheduler = Scheduler::new(limits());
        scheduler.add(admission(1, 20, 4)).expect("it fits");
        let spans: Vec<_> = (0..3).map(|_| scheduler.plan().spans.remove(0)).collect();
        let shape: Vec<_> = spans.iter().map(|s| (s.start, s.tokens.len(), s.sample)).collect();
        assert_eq!(shape, [(0, 8, false), (8, 8, false), (16, 4, true)]);
        assert!(scheduler.plan().is_empty(), "nothing to do until a token is sampled");
    }

    #[test]
    fn decode_tokens_go_before_prefill_chunks() {
        let mut scheduler = Scheduler::new(limits());
        scheduler.add(admission(1, 2, 4)).expect("it fits");
        scheduler.plan();
        scheduler.append(SequenceId(1), Token::Known(9));
        scheduler.add(admission(2, 20, 4)).expect("it fits");
        let plan = scheduler.plan();
        let shape: Vec<_> = plan.spans.iter().map(|s| (s.sequence.0, s.tokens.len())).collect();
        assert_eq!(shape, [(1, 1), (2, 7)]);
    }

    #[test]
    fn sequences_wait_until_their_whole_life_fits_the_cache() {
        let mut scheduler = Scheduler::new(limits());
        scheduler.add(admission(1, 4, 40)).expect("it fits");
        scheduler.add(admission(2, 4, 20)).expect("it fits alone");
        scheduler.plan();
        assert_eq!((scheduler.running(), scheduler.waiting()), (1, 1));
        scheduler.remove(SequenceId(1));
        scheduler.plan();
        assert_eq!((scheduler.running(), scheduler.waiting()), (1, 0));
    }

    #[test]
    fn what_can_never_run_is_refused_at_once() {
        let mut scheduler = Scheduler::new(limits());
        assert_eq!(scheduler.add(admission(1, 0, 4)), Err(AdmissionError::EmptyPrompt));
        assert_eq!(
            scheduler.add(admission(1, 60, 5)),
            Err(AdmissionError::LargerThanCache { needed: 65, available: 64 })
        );
    }

    #[test]
    fn every_prompt_token_is_planned_exactly_once_at_its_position() {
        let mut scheduler =
            Scheduler::new(SchedulerLimits { max_sequences: 4, step_tokens: 5, kv_tokens: 1000 });
        for id in 0..6 {
            scheduler.add(admission(id, 3 + 7 * id as usize, 2)).expect("it fits");
        }
        let mut seen = std::collections::BTreeMap::<u64, usize>::new();
        while seen.values().sum::<usize>() < (0..6).map(|id| 3 + 7 * id).sum() {
            let plan = scheduler.plan();
            assert!(!plan.is_empty(), "starved with {seen:?}");
            for span in plan.spans {
                let at = seen.entry(span.sequence.0).or_default();
                assert_eq!(*at, span.start);
                *at += span.tokens.len();
                if span.sample {
                    scheduler.remove(span.sequence);
                }
            }
        }
    }
}
