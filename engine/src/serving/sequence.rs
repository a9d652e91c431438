//! One choice of a request in flight as the step thread sees it: its sampler and its limits.
//!
//! Says whether a token is the last. Knows no tensors, no text and no other sequence; what the
//! client sees is its `Stream`'s.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::answer::Answer;
use super::delivery::Update;
use super::guessing::Guessing;
use super::opening::Opening;
use super::repetition::RepetitionDetector;
use super::stream::Ending;
use crate::event::GenerateError;
use crate::grammar::Constraint;
use crate::sampling::{Choice, Draw, RowChoice, RowSampler, Sampler, SharedRow};
use crate::text::TextCodec;

/// A sequence the engine works on.
pub(super) struct Sequence {
    pub(super) id: String,
    pub(super) answer: Answer,
    pub(super) row: SharedRow,
    /// Whether the device can choose its tokens itself.
    pub(super) plain_greedy: bool,
    /// Where tokens may be guessed ahead.
    pub(super) guessing: Option<Guessing>,
    eos: Vec<u32>,
    max_new_tokens: u32,
    generated: u32,
    /// Tokens whose computation has begun, when that is known before they are read.
    launched: u32,
    repetition: Option<RepetitionDetector>,
    timeout: Option<Duration>,
    begun: bool,
}

impl Sequence {
    /// Choice `choice` of a request.
    ///
    /// # Errors
    /// A sampling parameter breaks its rule.
    pub(super) fn new(
        opening: &Opening,
        choice: u32,
        codec: &TextCodec,
        guessing: Option<Guessing>,
    ) -> Result<Self, GenerateError> {
        let Opening { start, answer, max_new_tokens, .. } = opening;
        let mut params = start.sampling.clone();
        params.seed = params.seed.map(|seed| seed.wrapping_add(choice.into()));
        let mut sampler = Sampler::new(&params, codec.vocab_size() as usize)?;
        sampler.observe_prompt(&start.prompt);
        let resumed = opening.resumed(choice);
        resumed.iter().for_each(|token| sampler.accept(*token));
        let opens = start.grammar_after.map(|opener| resumed.iter().position(|token| *token == opener));
        let (after, behind) = match opens {
            Some(None) => (start.grammar_after, resumed.len()),
            Some(Some(at)) => (None, at + 1),
            None => (None, 0),
        };
        let constraint =
            start.grammar.as_ref().map(|grammar| Constraint::new(grammar, resumed[behind..].to_vec()));
        let row = RowSampler::new(sampler, start.options.logprobs).constrained(constraint, after);
        Ok(Self {
            id: start.id.clone(),
            answer: answer.clone(),
            plain_greedy: row.is_plain_greedy(),
            guessing,
            row: Arc::new(Mutex::new(row)),
            eos: if start.limits.ignore_eos { Vec::new() } else { codec.eos_token_ids().to_vec() },
            max_new_tokens: *max_new_tokens,
            generated: 0,
            launched: 0,
            repetition: start.limits.repetition.map(RepetitionDetector::new),
            timeout: start.turn.deadline,
            begun: false,
        })
    }

    /// Its tokens from `position` on are being computed; those before its first one were in the KV cache.
    pub(super) fn computes_from(&mut self, position: usize) {
        if !std::mem::replace(&mut self.begun, true) {
            self.answer.cached(position);
        }
    }

    /// Counts a token that is being computed; true unless it is the last the request may have.
    pub(super) fn expects_another(&mut self) -> bool {
        self.launched = self.launched.max(self.generated) + 1;
        self.launched < self.max_new_tokens
    }

    /// How the token `ahead` of the next one to be computed is chosen, where the device can do that.
    pub(super) fn draw(&self, ahead: usize) -> Option<Draw> {
        let index = u64::from(self.launched.max(self.generated)) + ahead as u64;
        self.state().draw(index)
    }

    /// Notes tokens that the device chose.
    pub(super) fn drawn(&self, choices: &[RowChoice]) {
        let mut state = self.state();
        choices.iter().flatten().for_each(|choice| state.accept(choice.token));
    }

    /// A sampler that panicked has been reported by the step it was in.
    fn state(&self) -> MutexGuard<'_, RowSampler> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to tell when its deadline has passed.
    pub(super) fn expired(&self) -> Ending {
        let millis = self.timeout.map_or(0, |timeout| timeout.as_millis());
        let (done, most) = (self.generated, self.max_new_tokens);
        Ending::Failed(GenerateError::DeadlineExceeded(format!(
            "the deadline of {millis} ms passed after {done} of at most {most} tokens; allow more time or ask for fewer"
        )))
    }

    /// Guesses from its text only, if at all, from now on.
    pub(super) fn stop_drafting(&mut self) {
        self.guessing = self.guessing.take().and_then(Guessing::without_draft);
    }

    /// Tokens that may be guessed behind the next one.
    pub(super) fn room_for_guesses(&self) -> usize {
        self.max_new_tokens.saturating_sub(self.generated + 1) as usize
    }

    /// Takes the tokens that another engine chose and told: what their stream is to know of them, and whether they end
    /// the choice.
    pub(super) fn resume(&mut self, tokens: &[u32]) -> (Vec<Update>, bool) {
        let mut updates = Vec::new();
        for &token in tokens {
            let (taken, ended) = self.push(Choice { token, ranking: None });
            updates.extend(taken.into_iter().map(|update| match update {
                Update::Token(choice) => Update::Resumed(choice.token),
                Update::End(Ending::EndOfSequence(token)) => Update::End(Ending::Resumed(token)),
                other => other,
            }));
            if ended {
                return (updates, true);
            }
        }
        (updates, false)
    }

    /// Takes the next token: what to tell of it, and whether it was the last.
    pub(super) fn push(&mut self, choice: Choice) -> (Vec<Update>, bool) {
        self.generated += 1;
        if let Some(guessing) = &mut self.guessing {
            guessing.push(choice.token);
        }
        if self.eos.contains(&choice.token) {
            return (vec![Update::End(Ending::EndOfSequence(choice.token))], true);
        }
        let circles = self.repetition.as_mut().is_some_and(|detector| detector.push(choice.token));
        let ending = match self.generated == self.max_new_tokens {
            _ if circles => Some(Ending::Repetition),
            true => Some(Ending::Length),
            false => None,
        };
        let last = ending.is_some();
        let mut updates = vec![Update::Token(choice)];
        updates.extend(ending.map(Update::End));
        (updates, last)
    }
}

/// How many tokens a choice may have after a prompt of `prompt` tokens.
pub(super) fn max_new_tokens(prompt: u32, asked: Option<u32>, context: u32) -> Result<u32, GenerateError> {
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
