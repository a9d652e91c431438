//! What one choice's client sees: its text, its stop strings, its events.
//!
//! Takes tokens, tells the answer. Knows no tensors, no scheduler and no other choice; end-of-sequence
//! tokens and limits are the step thread's to see (`sequence`).

use std::time::Instant;

use rand::Rng;

use super::answer::Answer;
use super::preparing::OutputMarkup;
use crate::event::{Delta, FinishReason, GenerateError, ScoredToken, TokenLogprobs, ToolCallDelta};
use crate::sampling::{Choice, Ranking};
use crate::text::markup::Splitter;
use crate::text::{Detokenizer, PendingScores, StopMatcher};

/// The output of a choice in flight.
pub(super) struct Stream {
    pub(super) answer: Answer,
    choice: u32,
    detokenizer: Detokenizer,
    scores: PendingScores,
    stops: StopMatcher,
    splitter: Option<Splitter>,
    /// Of what length calls' ids are.
    id_letters: usize,
    /// The client has been told what is made of the tokens.
    silent: bool,
}

/// How the step thread ends a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// This end-of-sequence token, which has no text, was generated.
    EndOfSequence(u32),
    /// The same, and the client has been told elsewhere.
    Resumed(u32),
    /// As many tokens as allowed were generated.
    Length,
    /// The output went round in circles.
    Repetition,
    /// The client's wish.
    Cancelled,
    /// An error, which ends the whole request.
    Failed(GenerateError),
}

impl Stream {
    /// The output of choice `choice` of `answer`.
    pub(super) fn new(answer: Answer, choice: u32, text: (Detokenizer, StopMatcher)) -> Self {
        let (detokenizer, stops) = text;
        let (scores, splitter) = (PendingScores::default(), None);
        Self { answer, choice, detokenizer, scores, stops, splitter, id_letters: 0, silent: false }
    }

    /// Tells the output's markup apart.
    pub(super) fn with_markup(mut self, markup: Option<&OutputMarkup>) -> Self {
        if let Some(markup) = markup {
            self.splitter = Some(markup.splitter());
            self.id_letters = if markup.wants_short_ids() { 9 } else { 24 };
        }
        self
    }

    /// Takes a token of which the client was told elsewhere; true when a stop string ended the choice with it.
    pub(super) fn resume(&mut self, token: u32, at: Instant) -> bool {
        self.silent = true;
        let stopped = self.push(Choice { token, ranking: None }, at);
        self.silent = false;
        stopped
    }

    fn tell(&self, delta: Delta) {
        if !self.silent {
            self.answer.delta(delta);
        }
    }

    /// Takes a token generated at `at`; true when a stop string ended the choice, which has been told.
    pub(super) fn push(&mut self, chosen: Choice, at: Instant) -> bool {
        let Choice { token, ranking } = chosen;
        self.answer.token(at);
        let scores = ranking.map(|ranking| self.scores_of(token, ranking));
        let piece = self.detokenizer.push(token);
        self.scores.push(scores, piece.len());
        let step = self.stops.push(&piece);
        let logprobs = self.scores.give(step.text.len());
        let token_ids = vec![token];
        let delta = Delta { token_ids, logprobs, ..self.told_apart(step.text, step.stopped) };
        if step.stopped {
            let reason = self.reason(FinishReason::Stop);
            self.tell(Delta { ended: Some(reason), ..delta });
            self.answer.end(reason, at);
        } else {
            self.tell(delta);
        }
        step.stopped
    }

    /// Ends the choice. Nothing may follow.
    pub(super) fn end(&mut self, ending: Ending, at: Instant) {
        self.silent = matches!(ending, Ending::Resumed(_));
        let (reason, token_ids) = match ending {
            Ending::Failed(error) => return self.answer.fail(error),
            Ending::EndOfSequence(token) | Ending::Resumed(token) => {
                self.answer.token(at);
                (FinishReason::Stop, vec![token])
            }
            Ending::Length => (FinishReason::Length, Vec::new()),
            Ending::Repetition => (FinishReason::Repetition, Vec::new()),
            Ending::Cancelled => (FinishReason::Cancelled, Vec::new()),
        };
        let (text, logprobs) = self.rest();
        let delta = Delta { token_ids, logprobs, ..self.told_apart(text, true) };
        let reason = self.reason(reason);
        self.tell(Delta { ended: Some(reason), ..delta });
        self.answer.end(reason, at);
    }

    /// A model that has called tools stops for their answers.
    fn reason(&self, reason: FinishReason) -> FinishReason {
        let called = self.splitter.as_ref().is_some_and(Splitter::has_called);
        if called && reason == FinishReason::Stop { FinishReason::ToolCalls } else { reason }
    }

    /// More text as a delta; `last` where none follows.
    fn told_apart(&mut self, text: String, last: bool) -> Delta {
        let choice = self.choice;
        let Some(splitter) = &mut self.splitter else {
            return Delta { choice, text, ..Delta::default() };
        };
        let mut split = splitter.push(&text);
        if last {
            let rest = splitter.finish();
            split.text.push_str(&rest.text);
            split.reasoning.push_str(&rest.reasoning);
            split.calls.extend(rest.calls);
        }
        let letters = self.id_letters;
        let tool_calls = split.calls.into_iter().map(|call| ToolCallDelta {
            index: call.index,
            id: call.name.is_some().then(|| call_id(letters)),
            name: call.name,
            arguments: call.arguments,
        });
        let tool_calls = tool_calls.collect();
        Delta { choice, text: split.text, reasoning: split.reasoning, tool_calls, ..Delta::default() }
    }

    /// The text held back for an unfinished character or a possible stop string, with what is known of its
    /// tokens.
    fn rest(&mut self) -> (String, Vec<TokenLogprobs>) {
        let rest = self.detokenizer.finish();
        self.scores.push(None, rest.len());
        let mut step = self.stops.push(&rest);
        if !step.stopped {
            step.text.push_str(&self.stops.finish());
        }
        let mut logprobs = self.scores.give(step.text.len());
        if !step.stopped {
            logprobs.extend(self.scores.rest());
        }
        (step.text, logprobs)
    }

    fn scores_of(&self, token: u32, ranking: Ranking) -> TokenLogprobs {
        let scored = |id, logprob| ScoredToken { id, bytes: self.detokenizer.bytes(id).to_vec(), logprob };
        TokenLogprobs {
            chosen: scored(token, ranking.chosen),
            top: ranking.top.into_iter().map(|(id, logprob)| scored(id, logprob)).collect(),
        }
    }
}

/// A name for a call that no other call has.
fn call_id(letters: usize) -> String {
    let letters = rand::rng().sample_iter(rand::distr::Alphanumeric).take(letters).map(char::from);
    let prefix = if letters.size_hint().1 == Some(9) { "" } else { "call_" };
    prefix.chars().chain(letters).collect()
}
