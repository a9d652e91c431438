//! What one choice's client sees: its text, its stop strings, its events.
//!
//! Takes tokens, tells the answer. Knows no tensors, no scheduler and no other choice; end-of-sequence
//! tokens and limits are the step thread's to see (`sequence`).

use std::time::Instant;

use super::answer::Answer;
use crate::event::{Delta, FinishReason, GenerateError, ScoredToken, TokenLogprobs};
use crate::sampling::{Choice, Ranking};
use crate::text::{Detokenizer, PendingScores, StopMatcher};

/// The output of a choice in flight.
pub(super) struct Stream {
    pub(super) answer: Answer,
    choice: u32,
    detokenizer: Detokenizer,
    scores: PendingScores,
    stops: StopMatcher,
}

/// How the step thread ends a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// This end-of-sequence token, which has no text, was generated.
    EndOfSequence(u32),
    /// As many tokens as allowed were generated.
    Length,
    /// The client's wish.
    Cancelled,
    /// An error, which ends the whole request.
    Failed(GenerateError),
}

impl Stream {
    /// The output of choice `choice` of `answer`.
    pub(super) fn new(answer: Answer, choice: u32, text: (Detokenizer, StopMatcher)) -> Self {
        let (detokenizer, stops) = text;
        Self { answer, choice, detokenizer, scores: PendingScores::default(), stops }
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
        let ended = step.stopped.then_some(FinishReason::Stop);
        let (choice, token_ids) = (self.choice, vec![token]);
        self.answer.delta(Delta { choice, text: step.text, token_ids, logprobs, ended });
        if step.stopped {
            self.answer.end(FinishReason::Stop, at);
        }
        step.stopped
    }

    /// Ends the choice. Nothing may follow.
    pub(super) fn end(&mut self, ending: Ending, at: Instant) {
        let (reason, token_ids) = match ending {
            Ending::Failed(error) => return self.answer.fail(error),
            Ending::EndOfSequence(token) => {
                self.answer.token(at);
                (FinishReason::Stop, vec![token])
            }
            Ending::Length => (FinishReason::Length, Vec::new()),
            Ending::Cancelled => (FinishReason::Cancelled, Vec::new()),
        };
        let (text, logprobs) = self.rest();
        let ended = Some(reason);
        self.answer.delta(Delta { choice: self.choice, text, token_ids, logprobs, ended });
        self.answer.end(reason, at);
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
