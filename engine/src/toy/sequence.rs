//! One request being answered, step by step.
//!
//! Takes `now` and says when it wants the next step; the worker owns the clock and the thread.

use std::time::Instant;

use super::ToyOptions;
use super::language::{self, END, Memory, VOCAB_SIZE};
use crate::sampling::Sampler;
use crate::text::StopMatcher;
use crate::{AnswerOptions, Delta, Event, EventSink, Finish, FinishReason, GenerateError, Request};

pub(super) struct Sequence {
    pub(super) id: String,
    /// When the next token is ready.
    pub(super) next_at: Instant,
    /// When to give it up.
    pub(super) deadline: Option<Instant>,
    events: EventSink,
    memory: Memory,
    stops: StopMatcher,
    prompt_tokens: u32,
    generated: u32,
    /// Position of the end-of-sequence token among the generated ones.
    ends_after: Option<u32>,
    max_tokens: u32,
    admitted: Instant,
    first: Option<Instant>,
}

/// A prompt checked and tokenised.
pub(super) struct Prepared {
    pub(super) tokens: Vec<u32>,
    /// When to give the request up.
    pub(super) deadline: Option<Instant>,
}

impl Prepared {
    pub(super) fn new(request: &Request, options: &ToyOptions, now: Instant) -> Result<Self, GenerateError> {
        Sampler::new(&request.sampling, VOCAB_SIZE as usize)?;
        if request.answer != AnswerOptions::default() || request.limits.repetition.is_some() {
            let message = "the toy engine answers with one choice of plain text".to_owned();
            return Err(GenerateError::Invalid(message));
        }
        let tokens = language::encode(&request.prompt)?;
        let limit = options.context_tokens as usize;
        if tokens.len() >= limit {
            let rule = format!("the prompt must be shorter than the context of {limit} tokens");
            return Err(GenerateError::Invalid(format!("{rule}, got {}", tokens.len())));
        }
        Ok(Self { tokens, deadline: request.turn.deadline.map(|after| now + after) })
    }

    pub(super) fn contains(&self, text: Option<&String>) -> bool {
        text.is_some_and(|text| language::decode(&self.tokens).contains(text.as_str()))
    }
}

impl Sequence {
    /// Admits a request.
    pub(super) fn start(
        request: Request,
        prepared: &Prepared,
        mut events: EventSink,
        options: &ToyOptions,
        now: Instant,
    ) -> Self {
        let tokens = &prepared.tokens;
        let prompt_tokens = tokens.len() as u32;
        events(Event::Started { prompt_tokens });
        // Words at the end of a prompt are the beginning of this answer, taken up again.
        let taken_up = tokens.iter().rev().take_while(|&&token| token > END).count() as u32;
        let room = options.context_tokens - prompt_tokens;
        let ends_after = (!request.limits.ignore_eos).then(|| options.tokens.saturating_sub(taken_up));
        Self {
            id: request.id,
            next_at: now + options.prefill_delay_per_token * prompt_tokens + options.token_delay,
            deadline: prepared.deadline,
            events,
            memory: Memory::of(tokens),
            stops: StopMatcher::new(&request.limits.stop),
            prompt_tokens,
            generated: 0,
            ends_after,
            max_tokens: request.limits.max_tokens.unwrap_or(room).min(room),
            admitted: now,
            first: None,
        }
    }

    /// Generates the next token; the reason when it was the last.
    pub(super) fn step(&mut self, options: &ToyOptions, now: Instant) -> Option<FinishReason> {
        if self.generated >= self.max_tokens {
            return Some(FinishReason::Length);
        }
        self.first.get_or_insert(now);
        self.next_at = now + options.token_delay;
        let ended = self.ends_after == Some(self.generated);
        let token = if ended { END } else { self.memory.next() };
        self.memory = self.memory.and(token);
        self.generated += 1;
        let step = self.stops.push(language::word(token));
        self.tell(step.text, vec![token]);
        if ended || step.stopped {
            return Some(FinishReason::Stop);
        }
        (self.generated == self.max_tokens).then_some(FinishReason::Length)
    }

    fn tell(&mut self, text: String, token_ids: Vec<u32>) {
        (self.events)(Event::Delta(Delta { text, token_ids, ..Delta::default() }));
    }

    pub(super) fn fail(&mut self, error: GenerateError) {
        (self.events)(Event::Failed(error));
    }

    /// Gives out what is left and ends the request.
    pub(super) fn finish(mut self, reason: FinishReason, now: Instant) {
        let held = self.stops.finish();
        if !held.is_empty() {
            self.tell(held, Vec::new());
        }
        let first = self.first.unwrap_or(now);
        (self.events)(Event::Finished(Finish {
            reason,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: 0,
            completion_tokens: self.generated,
            prefill: first - self.admitted,
            decode: now - first,
        }));
    }
}
