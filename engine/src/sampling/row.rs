//! What a sequence's row of logits goes through, wherever that happens: sampling, and the ranking that tells
//! how likely the choice was.
//!
//! A row's state moves on with each choice, so a choice is final. Knows no arrays and no other sequence;
//! `serving` decides on which thread rows are sampled, in the order of their steps.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{Draw, Ranking, Sampler, SamplingError, rank};
use crate::grammar::Constraint;

/// The sampling state of one sequence.
#[derive(Debug)]
pub(crate) struct RowSampler {
    sampler: Sampler,
    /// How many most likely tokens to rank, where log-probabilities are wanted.
    top: Option<usize>,
    constraint: Option<Constraint>,
    /// The constraint holds from after this token on.
    after: Option<u32>,
    /// The logits as constraint and sampler change them.
    scratch: Vec<f32>,
}

/// A row's state, shared between the thread that launches steps and the one that samples.
pub(crate) type SharedRow = Arc<Mutex<RowSampler>>;

/// A token chosen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    pub(crate) token: u32,
    /// Where log-probabilities are wanted.
    pub(crate) ranking: Option<Ranking>,
}

impl RowSampler {
    /// `logprobs` is how many most likely tokens to rank beside the chosen one; none at all when absent.
    pub(crate) fn new(sampler: Sampler, logprobs: Option<u32>) -> Self {
        let top = logprobs.map(|top| top as usize);
        Self { sampler, top, constraint: None, after: None, scratch: Vec::new() }
    }

    /// Keeps all tokens within a grammar, or those after the token `after` where one is given.
    pub(crate) fn constrained(self, constraint: Option<Constraint>, after: Option<u32>) -> Self {
        Self { constraint, after, ..self }
    }

    /// Whether a choice is the plain argmax of the logits and nothing else is wanted of them, so that a device
    /// can take it itself.
    pub(crate) fn is_plain_greedy(&self) -> bool {
        self.sampler.is_plain_greedy() && self.top.is_none() && self.constraint.is_none()
    }

    /// How token `index` is chosen, counted from the first that was accepted, where a device can do that itself.
    pub(crate) fn draw(&self, index: u64) -> Option<Draw> {
        let plain = self.top.is_none() && self.constraint.is_none();
        plain.then(|| self.sampler.draw(index)).flatten()
    }

    /// Counts a token that a device chose as the sequence's.
    pub(crate) fn accept(&mut self, token: u32) {
        self.sampler.accept(token);
    }

    /// Chooses the next token and counts it as the sequence's.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub(crate) fn choose(&mut self, logits: &[f32]) -> Result<Choice, SamplingError> {
        self.scratch.clear();
        self.scratch.extend_from_slice(logits);
        let constraint = self.constraint.as_ref().filter(|_| self.after.is_none());
        if let Some(constraint) = constraint {
            constraint.restrict(&mut self.scratch).map_err(SamplingError::Grammar)?;
        }
        let token = self.sampler.sample(&mut self.scratch)?;
        self.sampler.accept(token);
        if let Some(constraint) = constraint {
            constraint.accept(token);
        }
        self.after = self.after.filter(|&after| after != token);
        Ok(Choice { token, ranking: self.top.map(|top| rank(logits, token, top)) })
    }
}

/// Rows of one sequence: its state, absent where it has ended, and guesses for all tokens but the last.
pub(crate) type RowsOf<'a> = (Option<SharedRow>, &'a [u32]);

/// Chooses tokens for the sequences that the rows of `logits`, `[rows, vocabulary]`, belong to, on all cores: the next
/// one, and those after guesses as long as these are the same as what was chosen. Of a sequence that has ended nothing
/// is chosen.
pub(crate) fn choose_rows(sequences: &[RowsOf<'_>], logits: &[f32]) -> Vec<Vec<RowChoice>> {
    let firsts: Vec<usize> = sequences
        .iter()
        .scan(0, |next, (_, guesses)| Some(std::mem::replace(next, *next + guesses.len() + 1)))
        .collect();
    let rows: usize = sequences.iter().map(|(_, guesses)| guesses.len() + 1).sum();
    let width = logits.len() / rows.max(1);
    let chosen: Vec<OnceLock<_>> = sequences.iter().map(|_| OnceLock::new()).collect();
    mlxcel_kernels::pool().parallel_for(sequences.len(), |index| {
        let (Some(row), guesses) = &sequences[index] else { return };
        // A sampler that panicked has been reported by the step it was in; its row is not sampled again.
        let mut row = row.lock().unwrap_or_else(PoisonError::into_inner);
        let logits = &logits[firsts[index] * width..][..(guesses.len() + 1) * width];
        chosen[index].get_or_init(|| row.choose_along(guesses, logits.chunks_exact(width.max(1))));
    });
    chosen
        .into_iter()
        .map(|slot| slot.into_inner().unwrap_or_else(|| vec![Err(SamplingError::NoToken)]))
        .collect()
}

/// What became of one row.
pub(crate) type RowChoice = Result<Choice, SamplingError>;

impl RowSampler {
    /// Chooses row by row until a choice is not what was guessed.
    fn choose_along<'a>(&mut self, guesses: &[u32], rows: impl Iterator<Item = &'a [f32]>) -> Vec<RowChoice> {
        let mut chosen = Vec::with_capacity(guesses.len() + 1);
        for (at, logits) in rows.enumerate() {
            let choice = self.choose(logits);
            let goes_on = choice.as_ref().is_ok_and(|choice| guesses.get(at) == Some(&choice.token));
            chosen.push(choice);
            if !goes_on {
                break;
            }
        }
        chosen
    }
}
