//! A sequence as the scheduler knows it: waiting, or running with blocks.
//!
//! Counts and tokens only. Decides nothing: `queue` and `preemption` compare members, `scheduler` moves them.

use std::time::Duration;

use super::admission::{Admission, Client};
use super::plan::{SequenceId, Span, Token};
use crate::blocks::{BlockTable, SpanState};

/// What stays the same whether a sequence waits or runs.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) sequence: SequenceId,
    pub(super) client: Client,
    pub(super) priority: i32,
    pub(super) arrival: Duration,
    pub(super) deadline: Option<Duration>,
    /// Prompt and output, as far as the output has been read.
    pub(super) tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub(super) prompt: usize,
    /// Tokens after those that launched steps sample and a later step may compute already.
    pub(super) awaited: usize,
    /// Launched steps that compute tokens of it and have not been read.
    pub(super) in_flight: usize,
    /// Its prompt has been charged to its client; computing it again is not the client's doing.
    pub(super) charged: bool,
    /// The first plan that may admit it.
    pub(super) not_before: u64,
}

/// A member that has blocks.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) member: Member,
    pub(super) table: BlockTable,
    /// Priority with what it gained by waiting.
    pub(super) level: i64,
    /// Tokens planned so far: computed, or being computed.
    pub(super) planned: usize,
    /// Tokens known to be computed.
    pub(super) computed: usize,
    /// Tokens to be checked behind the next one.
    pub(super) guesses: Vec<u32>,
}

impl From<Admission> for Member {
    fn from(admission: Admission) -> Self {
        Self {
            sequence: admission.sequence,
            client: admission.client,
            priority: admission.priority,
            arrival: admission.arrival,
            deadline: admission.deadline,
            prompt: admission.prompt.len().saturating_sub(admission.resumed),
            tokens: admission.prompt,
            awaited: 0,
            in_flight: 0,
            charged: false,
            not_before: 0,
        }
    }
}

impl Member {
    /// Earlier comes first.
    pub(super) fn age(&self) -> (Duration, SequenceId) {
        (self.arrival, self.sequence)
    }

    /// Takes the token that follows.
    pub(super) fn append(&mut self, token: Token) {
        match token {
            Token::Awaited => self.awaited += 1,
            Token::Known(id) => {
                self.tokens.push(id);
                self.awaited = self.awaited.saturating_sub(1);
            }
        }
    }
}

impl Running {
    /// Tokens not planned yet.
    pub(super) fn pending(&self) -> usize {
        self.member.tokens.len() + self.member.awaited - self.planned
    }

    /// How many of the tokens not planned yet a step may compute that has `rows` rows already and room for `budget` more.
    pub(super) fn chunk(&self, rows: usize, budget: usize, exact_rows: Option<usize>) -> usize {
        let pending = self.pending().min(budget);
        let Some(exact) = exact_rows.filter(|exact| rows < *exact) else { return pending };
        match self.member.prompt.saturating_sub(self.planned) {
            0 => pending.min(exact - rows),
            of_prompt => pending.min(of_prompt),
        }
    }

    /// Tokens for which `count` more need room beyond what the table has.
    pub(super) fn lacking(&self, count: usize) -> usize {
        (self.planned + count).saturating_sub(self.table.tokens())
    }

    /// Plans the next `count` tokens, and the guesses behind them, for which the table has room. Guesses do not count
    /// as planned: what becomes of them is known when the step has been read. `state` is where its state is found and left.
    pub(super) fn take(&mut self, count: usize, state: Option<SpanState>) -> Span {
        let start = self.planned;
        let known = &self.member.tokens;
        let token = |at: usize| known.get(at).map_or(Token::Awaited, |id| Token::Known(*id));
        let guesses = std::mem::take(&mut self.guesses);
        let tokens =
            (start..start + count).map(token).chain(guesses.iter().copied().map(Token::Known)).collect();
        self.planned += count;
        let last = self.pending() == 0;
        self.member.in_flight += 1;
        let samples = if last { 1 + guesses.len() } else { 0 };
        Span { sequence: self.member.sequence, tokens, start, samples, blocks: self.table.shared(), state }
    }
}
