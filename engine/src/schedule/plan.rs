//! One step of the engine as data: a ragged batch.
//!
//! A flat list of tokens from any number of sequences, prefill chunks and single decode tokens
//! together. Says what to compute, not how; only attention looks at the spans.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::blocks::{BlockCopy, BlockId, SpanState};

/// Names a sequence for as long as its engine lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SequenceId(pub u64);

/// A token to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Token {
    /// This one.
    Known(u32),
    /// The one the step before samples for the same sequence, which no one has read yet.
    Awaited,
}

/// The tokens one step computes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StepPlan {
    /// One span a sequence.
    pub spans: Vec<Span>,
    /// Blocks to be copied before anything is written, in this order.
    pub copies: Vec<BlockCopy>,
}

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Whose tokens these are.
    pub sequence: SequenceId,
    /// The tokens; never empty.
    pub tokens: Vec<Token>,
    /// Position of the first token; as many tokens of the sequence are in the KV cache.
    pub start: usize,
    /// After how many of its last tokens the logits are wanted: none within a prompt, more than one where tokens
    /// are guesses to be checked.
    pub samples: usize,
    /// Where the sequence's keys and values are: token `t` in block `t / BLOCK_TOKENS`.
    pub blocks: Arc<[BlockId]>,
    /// Where its state is, in models whose mixers keep one.
    pub state: Option<SpanState>,
}

impl StepPlan {
    /// Tokens in the step.
    pub fn len(&self) -> usize {
        self.spans.iter().map(|span| span.tokens.len()).sum()
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The tokens with their sequences, flat: `[len]`.
    pub fn tokens(&self) -> impl Iterator<Item = (SequenceId, Token)> + '_ {
        self.spans.iter().flat_map(|span| span.tokens.iter().map(|token| (span.sequence, *token)))
    }

    /// Position of every token in its sequence, flat: `[len]`.
    pub fn positions(&self) -> Vec<i32> {
        let position = |at: usize| i32::try_from(at).unwrap_or(i32::MAX);
        self.spans
            .iter()
            .flat_map(|span| (0..span.tokens.len()).map(move |i| position(span.start + i)))
            .collect()
    }

    /// The rows of the flat batch that belong to each span, in order.
    pub fn rows(&self) -> Vec<Range<usize>> {
        let mut next = 0;
        self.spans
            .iter()
            .map(|span| {
                let rows = next..next + span.tokens.len();
                next = rows.end;
                rows
            })
            .collect()
    }

    /// Tokens a span's sequence has after the step, in span order.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.spans.iter().map(|span| span.start + span.tokens.len())
    }

    /// Rows whose logits are wanted, in order.
    pub fn sampled_rows(&self) -> Vec<u32> {
        let row = |row: usize| u32::try_from(row).unwrap_or(u32::MAX);
        let rows = self.spans.iter().zip(self.rows());
        rows.flat_map(|(span, rows)| rows.end - span.samples..rows.end).map(row).collect()
    }

    /// The spans whose logits are wanted, in the order of `sampled_rows`.
    pub fn sampled(&self) -> Vec<SampledSpan> {
        let spans = self.spans.iter().filter(|span| span.samples > 0);
        spans.map(|span| SampledSpan { sequence: span.sequence, guesses: span.guesses() }).collect()
    }
}

/// A sequence whose next token a step chooses, and what it checks behind that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampledSpan {
    /// Whose token it is.
    pub sequence: SequenceId,
    /// Guesses that follow; the logits have one row for the next token and one behind each guess.
    pub guesses: Vec<u32>,
}

impl Span {
    fn guesses(&self) -> Vec<u32> {
        let known = |token: &Token| match token {
            Token::Known(id) => Some(*id),
            Token::Awaited => None,
        };
        let first = self.tokens.len() + 1 - self.samples;
        self.tokens[first..].iter().filter_map(known).collect()
    }
}

impl SampledSpan {
    /// Rows of logits.
    pub fn rows(&self) -> usize {
        1 + self.guesses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(tokens: &[u32]) -> Vec<Token> {
        tokens.iter().copied().map(Token::Known).collect()
    }

    #[test]
    fn rows_positions_and_samples_follow_the_spans() {
        let span = |name, tokens: &[u32], start, samples| {
            let (sequence, blocks) = (SequenceId(name), Arc::default());
            Span { sequence, tokens: known(tokens), start, samples, blocks, state: None }
        };
        let spans = vec![span(1, &[7], 12, 1), span(2, &[3, 4, 5], 0, 0), span(3, &[8, 9], 4, 2)];
        let plan = StepPlan { spans, copies: Vec::new() };
        let tokens: Vec<Token> = plan.tokens().map(|(_, token)| token).collect();
        assert_eq!(tokens, known(&[7, 3, 4, 5, 8, 9]));
        assert_eq!(plan.positions(), [12, 0, 1, 2, 4, 5]);
        assert_eq!(plan.rows(), [0..1, 1..4, 4..6]);
        assert_eq!(plan.lengths().collect::<Vec<_>>(), [13, 3, 6]);
        assert_eq!(plan.sampled_rows(), [0, 4, 5]);
        let sampled: Vec<_> = plan.sampled().into_iter().map(|s| (s.sequence.0, s.guesses)).collect();
        assert_eq!(sampled, [(1, vec![]), (3, vec![9])]);
    }
}
