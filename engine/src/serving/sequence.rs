//! One request in flight as the step thread sees it: its sampler and its limits.
//!
//! Says whether a token is the last. Knows no tensors, no text and no other sequence; what the
//! client sees is its `Stream`'s.

use std::time::{Duration, Instant};

use super::command::Start;
use super::delivery::Update;
use super::stream::{Ending, Stream};
use crate::request::{Event, GenerateError};
use crate::sampling::Sampler;
use crate::schedule::{Admission, SequenceId};
use crate::text::{DetokenizeOptions, StopMatcher, TextCodec};

/// A request the engine works on.
pub(super) struct Sequence {
    pub(super) id: String,
    pub(super) sampler: Sampler,
    eos: Vec<u32>,
    max_new_tokens: u32,
    generated: u32,
    /// Tokens whose computation has begun, when that is known before they are read.
    launched: u32,
    timeout: Option<Duration>,
}

/// The name of a new sequence and when it came, by the clock and since the engine began.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub(super) sequence: SequenceId,
    pub(super) at: Instant,
    pub(super) since_begin: Duration,
}

impl Sequence {
    /// Checks a request and prepares it; on error the request has been answered.
    pub(super) fn new(
        mut start: Start,
        codec: &TextCodec,
        context_tokens: u32,
        arrival: Arrival,
    ) -> Option<(Self, Stream, Admission)> {
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
        let timeout = start.turn.deadline;
        let sequence =
            Self { id: start.id, sampler, eos, max_new_tokens, generated: 0, launched: 0, timeout };
        let detokenizer =
            codec.detokenizer(DetokenizeOptions { skip_special: true, continues: start.continues });
        let text = (detokenizer, StopMatcher::new(&start.limits.stop));
        let stream = Stream::new(start.events, text, prompt_tokens, arrival.at);
        let admission = Admission {
            sequence: arrival.sequence,
            prompt: start.prompt,
            max_new_tokens: max_new_tokens as usize,
            priority: start.turn.priority,
            client: start.turn.client.map(Into::into),
            arrival: arrival.since_begin,
            deadline: timeout.map(|timeout| arrival.since_begin.saturating_add(timeout)),
        };
        Some((sequence, stream, admission))
    }

    /// Counts a token that is being computed; true unless it is the last the request may have.
    pub(super) fn expects_another(&mut self) -> bool {
        self.launched = self.launched.max(self.generated) + 1;
        self.launched < self.max_new_tokens
    }

    /// What to tell when its deadline has passed.
    pub(super) fn expired(&self) -> Ending {
        let millis = self.timeout.map_or(0, |timeout| timeout.as_millis());
        let (done, most) = (self.generated, self.max_new_tokens);
        Ending::Failed(GenerateError::DeadlineExceeded(format!(
            "the deadline of {millis} ms passed after {done} of at most {most} tokens; allow more time or ask for fewer"
        )))
    }

    /// Takes the next token: what to tell of it, and whether it was the last.
    pub(super) fn push(&mut self, token: u32) -> (Vec<Update>, bool) {
        self.generated += 1;
        self.sampler.accept(token);
        if self.eos.contains(&token) {
            return (vec![Update::End(Ending::EndOfSequence(token))], true);
        }
        let last = self.generated == self.max_new_tokens;
        let mut updates = vec![Update::Token(token)];
        updates.extend(last.then_some(Update::End(Ending::Length)));
        (updates, last)
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
