//! A device of numbers: keys and values are hashes of all tokens before them.
//!
//! Runs plans in order and remembers what each place of each block holds, so that a block used twice, a copy left
//! out or a prefix that is not the sequence's own is found by the first step that reads it. So it is with states, whose
//! slots hold the history of the last token they have seen.

use std::collections::BTreeMap;

use crate::blocks::{BLOCK_TOKENS, BlockId, StateSlot};
use crate::schedule::{SequenceId, Span, StepPlan, Token};

/// The history of a token: it and all before it.
pub(super) fn history(before: u64, token: u32) -> u64 {
    (before ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23) ^ 0x9e37_79b9
}

/// The token that follows a history.
pub(super) fn sample(history: u64) -> u32 {
    (history >> 17) as u32 % 97
}

pub(super) struct Device {
    memory: Vec<[u64; BLOCK_TOKENS]>,
    states: BTreeMap<StateSlot, u64>,
    /// What the last step sampled.
    last: BTreeMap<SequenceId, u32>,
}

impl Device {
    pub(super) fn new(blocks: usize) -> Self {
        Self { memory: vec![[0; BLOCK_TOKENS]; blocks], states: BTreeMap::new(), last: BTreeMap::new() }
    }

    /// Runs a step; the token sampled for each span that wants one.
    pub(super) fn run(&mut self, plan: &StepPlan) -> BTreeMap<SequenceId, u32> {
        for copy in &plan.copies {
            let from = self.memory[copy.from.0 as usize];
            self.memory[copy.to.0 as usize][..copy.tokens].copy_from_slice(&from[..copy.tokens]);
        }
        // States may be read all at once or span by span.
        let read = |span: &Span, states: &BTreeMap<StateSlot, u64>| {
            span.state.as_ref().and_then(|state| state.from).map(|slot| states[&slot])
        };
        let at_once: Vec<Option<u64>> = plan.spans.iter().map(|span| read(span, &self.states)).collect();
        let mut sampled = BTreeMap::new();
        for (span, at_once) in plan.spans.iter().zip(at_once) {
            assert_eq!(read(span, &self.states), at_once, "a state is written before it is read");
            let history = self.compute(span);
            self.leave_states(span, at_once);
            if span.samples > 0 {
                sampled.insert(span.sequence, sample(history));
            }
        }
        self.last.clone_from(&sampled);
        sampled
    }

    /// Breaks off in a step: what it would have written is anything, and its samples mean nothing.
    pub(super) fn break_off(&mut self, plan: &StepPlan) -> BTreeMap<SequenceId, u32> {
        for span in &plan.spans {
            for at in span.start..span.start + span.tokens.len() {
                *self.place(&span.blocks, at) = u64::MAX;
            }
            if let Some(state) = &span.state {
                let kept = state.snapshots.iter().map(|snapshot| snapshot.slot);
                self.states.extend(kept.chain([state.to]).map(|slot| (slot, u64::MAX)));
            }
        }
        let sampled = plan.spans.iter().filter(|span| span.samples > 0).map(|span| (span.sequence, 0));
        self.last = sampled.collect();
        self.last.clone()
    }

    fn compute(&mut self, span: &Span) -> u64 {
        let mut before = match span.start {
            0 => 0,
            start => *self.place(&span.blocks, start - 1),
        };
        for (at, token) in (span.start..).zip(&span.tokens) {
            let id = match token {
                Token::Known(id) => *id,
                Token::Awaited => *self.last.get(&span.sequence).expect("the step before sampled it"),
            };
            before = history(before, id);
            *self.place(&span.blocks, at) = before;
        }
        before
    }

    /// Writes the states of a span that has been computed, after one that it found.
    fn leave_states(&mut self, span: &Span, found: Option<u64>) {
        let Some(state) = &span.state else { return };
        let history = |device: &mut Self, tokens: usize| *device.place(&span.blocks, tokens - 1);
        let before = (span.start > 0).then(|| history(self, span.start));
        assert_eq!(found, before, "{:?} goes on from the state of another", span.sequence);
        for snapshot in &state.snapshots {
            let kept = history(self, snapshot.tokens);
            self.states.insert(snapshot.slot, kept);
        }
        let last = history(self, span.start + span.tokens.len());
        self.states.insert(state.to, last);
    }

    fn place(&mut self, blocks: &[BlockId], at: usize) -> &mut u64 {
        &mut self.memory[blocks[at / BLOCK_TOKENS].0 as usize][at % BLOCK_TOKENS]
    }

    /// Whether the blocks of a span hold exactly these tokens before its start.
    pub(super) fn holds(&self, span: &Span, tokens: &[u32]) -> bool {
        let mut before = 0;
        tokens.iter().take(span.start).enumerate().all(|(at, token)| {
            before = history(before, *token);
            self.memory[span.blocks[at / BLOCK_TOKENS].0 as usize][at % BLOCK_TOKENS] == before
        })
    }
}
