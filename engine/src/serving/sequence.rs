//! One request in flight: its sampler, its text, its limits, its events.
//!
//! Takes tokens, gives events. Knows no tensors and no other sequence.

use std::time::Instant;

use super::command::Start;
use crate::api::EventSink;
use crate::request::{Event, Finish, FinishReason, GenerateError};
use crate::sampling::Sampler;
use crate::schedule::{Admission, SequenceId};
use crate::text::{DetokenizeOptions, Detokenizer, StopMatcher, TextCodec};

/// A request the engine works on.
pub(super) struct Sequence {
    pub(super) id: String,
    pub(super) sampler: Sampler,
    events: EventSink,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    eos: Vec<u32>,
    prompt_tokens: u32,
    max_new_tokens: u32,
    generated: u32,
    /// Tokens whose computation has begun, when that is known before they are read.
    launched: u32,
    admitted: Instant,
    first_token: Option<Instant>,
}

impl Sequence {
    /// Checks a request and prepares it; on error the request has been answered.
    pub(super) fn new(
        mut start: Start,
        codec: &TextCodec,
        name: SequenceId,
        context_tokens: u32,
        now: Instant,
    ) -> Option<(Self, Admission)> {
        let prompt_tokens = u32::try_from(start.prompt.len()).unwrap_or(u32::MAX);
        let checked =
            max_new_tokens(prompt_tokens, start.limits.max_tokens, context_tokens).and_then(|limit| {
                let sampler = Sampler::new(&start.sampling, codec.vocab_size() as usize);
                Ok((limit, sampler.map_err(|error| GenerateError::Invalid(error.to_string()))?))
            });
        let (max_new_tokens, mut sampler) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                (start.events)(Event::Failed(error));
                return None;
            }
        };
        sampler.observe_prompt(&start.prompt);
        let eos = if start.limits.ignore_eos { Vec::new() } else { codec.eos_token_ids().to_vec() };
        let sequence = Self {
            id: start.id,
            sampler,
            events: start.events,
            detokenizer: codec
                .detokenizer(DetokenizeOptions { skip_special: true, continues: start.continues }),
            stops: StopMatcher::new(&start.limits.stop),
            eos,
            prompt_tokens,
            max_new_tokens,
            generated: 0,
            launched: 0,
            admitted: now,
            first_token: None,
        };
        let admission =
            Admission { sequence: name, prompt: start.prompt, max_new_tokens: max_new_tokens as usize };
        Some((sequence, admission))
    }

    /// Tells that the request has been accepted.
    pub(super) fn started(&mut self) {
        (self.events)(Event::Started { prompt_tokens: self.prompt_tokens });
    }

    /// Counts a token that is being computed; true unless it is the last the request may have.
    pub(super) fn expects_another(&mut self) -> bool {
        self.launched = self.launched.max(self.generated) + 1;
        self.launched < self.max_new_tokens
    }

    /// Takes the next token; true when it was the last.
    pub(super) fn push(&mut self, token: u32, now: Instant) -> bool {
        self.first_token.get_or_insert(now);
        self.generated += 1;
        self.sampler.accept(token);
        if self.eos.contains(&token) {
            self.flush(vec![token]);
            self.finish(FinishReason::Stop, now);
            return true;
        }
        let piece = self.detokenizer.push(token);
        let step = self.stops.push(&piece);
        self.delta(step.text, vec![token]);
        if step.stopped {
            self.finish(FinishReason::Stop, now);
        } else if self.generated == self.max_new_tokens {
            self.flush(Vec::new());
            self.finish(FinishReason::Length, now);
        } else {
            return false;
        }
        true
    }

    /// Ends the request at its client's wish.
    pub(super) fn cancel(&mut self, now: Instant) {
        self.flush(Vec::new());
        self.finish(FinishReason::Cancelled, now);
    }

    /// Ends the request with an error.
    pub(super) fn fail(&mut self, error: GenerateError) {
        (self.events)(Event::Failed(error));
    }

    fn delta(&mut self, text: String, token_ids: Vec<u32>) {
        (self.events)(Event::Delta { text, token_ids });
    }

    /// Gives out the text held back for an unfinished character or a possible stop string.
    fn flush(&mut self, token_ids: Vec<u32>) {
        let step = self.stops.push(&self.detokenizer.finish());
        let mut text = step.text;
        if !step.stopped {
            text.push_str(&self.stops.finish());
        }
        if !text.is_empty() || !token_ids.is_empty() {
            self.delta(text, token_ids);
        }
    }

    fn finish(&mut self, reason: FinishReason, now: Instant) {
        let first = self.first_token.unwrap_or(now);
        (self.events)(Event::Finished(Finish {
            reason,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.generated,
            prefill: first.saturating_duration_since(self.admitted),
            decode: now.saturating_duration_since(first),
        }));
    }
}

/// How many tokens a request may generate.
fn max_new_tokens(prompt: u32, asked: Option<u32>, context: u32) -> Result<u32, GenerateError> {
    let room = context.saturating_sub(prompt);
    if room == 0 {
        return Err(GenerateError::Invalid(format!(
            "the prompt has {prompt} tokens, the context holds {context} with at least one of output; shorten the prompt"
        )));
    }
    match asked {
        Some(0) => Err(GenerateError::Invalid("max_tokens must be at least 1, got 0".to_owned())),
        Some(asked) => Ok(asked.min(room)),
        None => Ok(room),
    }
}
