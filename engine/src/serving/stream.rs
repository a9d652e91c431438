//! What one request's client sees: its text, its stop strings, its events.
//!
//! Takes tokens, gives events. Knows no tensors, no scheduler and no other request; end-of-sequence
//! tokens and limits are the step thread's to see (`sequence`).

use std::time::Instant;

use crate::api::EventSink;
use crate::request::{Event, Finish, FinishReason, GenerateError};
use crate::text::{Detokenizer, StopMatcher};

/// The output of a request in flight.
pub(super) struct Stream {
    events: EventSink,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    prompt_tokens: u32,
    generated: u32,
    admitted: Instant,
    first_token: Option<Instant>,
}

/// How the step thread ends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// This end-of-sequence token, which has no text, was generated.
    EndOfSequence(u32),
    /// As many tokens as allowed were generated.
    Length,
    /// The client's wish.
    Cancelled,
    /// An error.
    Failed(GenerateError),
}

impl Stream {
    /// The output of a request with a prompt of `prompt_tokens` tokens that arrived at `admitted`.
    pub(super) fn new(
        events: EventSink,
        text: (Detokenizer, StopMatcher),
        prompt_tokens: u32,
        admitted: Instant,
    ) -> Self {
        let (detokenizer, stops) = text;
        Self { events, detokenizer, stops, prompt_tokens, generated: 0, admitted, first_token: None }
    }

    /// Tells that the request has been accepted.
    pub(super) fn started(&mut self) {
        (self.events)(Event::Started { prompt_tokens: self.prompt_tokens });
    }

    /// Takes a token generated at `at`; true when a stop string ended the request, which has been
    /// told.
    pub(super) fn push(&mut self, token: u32, at: Instant) -> bool {
        self.count(at);
        let piece = self.detokenizer.push(token);
        let step = self.stops.push(&piece);
        (self.events)(Event::Delta { text: step.text, token_ids: vec![token] });
        if step.stopped {
            self.finish(FinishReason::Stop, at);
        }
        step.stopped
    }

    /// Ends the request. Nothing may follow.
    pub(super) fn end(&mut self, ending: Ending, at: Instant) {
        let reason = match ending {
            Ending::Failed(error) => return (self.events)(Event::Failed(error)),
            Ending::EndOfSequence(token) => {
                self.count(at);
                self.flush(vec![token]);
                FinishReason::Stop
            }
            Ending::Length => {
                self.flush(Vec::new());
                FinishReason::Length
            }
            Ending::Cancelled => {
                self.flush(Vec::new());
                FinishReason::Cancelled
            }
        };
        self.finish(reason, at);
    }

    fn count(&mut self, at: Instant) {
        self.first_token.get_or_insert(at);
        self.generated += 1;
    }

    /// Gives out the text held back for an unfinished character or a possible stop string.
    fn flush(&mut self, token_ids: Vec<u32>) {
        let step = self.stops.push(&self.detokenizer.finish());
        let mut text = step.text;
        if !step.stopped {
            text.push_str(&self.stops.finish());
        }
        if !text.is_empty() || !token_ids.is_empty() {
            (self.events)(Event::Delta { text, token_ids });
        }
    }

    fn finish(&mut self, reason: FinishReason, at: Instant) {
        let first = self.first_token.unwrap_or(at);
        (self.events)(Event::Finished(Finish {
            reason,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.generated,
            prefill: first.saturating_duration_since(self.admitted),
            decode: at.saturating_duration_since(first),
        }));
    }
}
