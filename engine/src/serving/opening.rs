//! Opens a request: checks it, and makes a sequence and a stream of each of its choices.
//!
//! The first choice computes the prompt; the others are queued when it has its first token, and find the prompt's
//! blocks in the prefix tree. Decides no order; the scheduler does.

use std::time::{Duration, Instant};

use super::answer::Answer;
use super::command::Start;
use super::delivery::Update;
use super::drafter::Drafter;
use super::guessing::Guessing;
use super::sequence::{Sequence, max_new_tokens};
use super::stream::{Ending, Stream};
use super::thread::EngineThread;
use crate::event::GenerateError;
use crate::schedule::{Admission, SequenceId};
use crate::text::{DetokenizeOptions, StopMatcher};

/// A request whose choices are being made.
pub(super) struct Opening {
    pub(super) start: Start,
    pub(super) answer: Answer,
    pub(super) max_new_tokens: u32,
    /// When it came, in the scheduler's time.
    arrival: Duration,
}

impl Opening {
    /// Tokens that a choice has already.
    pub(super) fn resumed(&self, choice: u32) -> &[u32] {
        self.start.options.resumed.get(choice as usize).map_or(&[], Vec::as_slice)
    }
}

impl EngineThread {
    /// Checks a request and queues its first choice.
    pub(super) fn start(&mut self, mut start: Start) {
        let prompt_tokens = u32::try_from(start.prompt.len()).unwrap_or(u32::MAX);
        let events = std::mem::replace(&mut start.events, Box::new(drop));
        let answer = Answer::new(events, start.options.choices, prompt_tokens, Instant::now());
        let room = max_new_tokens(prompt_tokens, start.limits.max_tokens, self.context_tokens());
        let queued = room.and_then(|max_new_tokens| {
            let answer = answer.clone();
            let mut opening = Opening { start, answer, max_new_tokens, arrival: self.since_begin() };
            let first = self.open(&opening, 0)?;
            if let Some(export) = opening.start.export.take() {
                self.exports.insert(first, export);
            }
            if opening.start.options.choices > 1 {
                self.openings.insert(first, opening);
            }
            if !self.sequences.contains_key(&first) {
                // It had all its tokens already, and so will have no first one.
                self.open_others(first);
            }
            Ok(())
        });
        if let Err(error) = queued {
            answer.fail(error);
        }
    }

    /// Queues the other choices of the request whose first one is `first`, unless that has been done.
    pub(super) fn open_others(&mut self, first: SequenceId) {
        let Some(opening) = self.openings.remove(&first) else { return };
        let opened =
            (1..opening.start.options.choices).try_for_each(|choice| self.open(&opening, choice).map(|_| ()));
        if let Err(error) = opened {
            self.end(first, Ending::Failed(error));
        }
    }

    /// Queues one choice.
    fn open(&mut self, opening: &Opening, choice: u32) -> Result<SequenceId, GenerateError> {
        let Opening { start, answer, .. } = opening;
        let (name, resumed) = (self.new_name(), opening.resumed(choice));
        let drafted = self.drafter.as_ref().map(Drafter::guesses);
        let guessing = Guessing::new(&start.prompt, self.lookup_tokens, drafted);
        let mut sequence = Sequence::new(opening, choice, &self.codec, guessing)?;
        let admission = Admission {
            sequence: name,
            prompt: [&start.prompt, resumed].concat(),
            resumed: resumed.len(),
            max_new_tokens: (opening.max_new_tokens as usize).saturating_sub(resumed.len()),
            priority: start.turn.priority,
            client: start.turn.client.as_deref().map(Into::into),
            arrival: opening.arrival,
            deadline: start.turn.deadline.map(|timeout| opening.arrival.saturating_add(timeout)),
        };
        let (updates, ended) = sequence.resume(resumed);
        if !ended {
            self.scheduler.add(admission).map_err(|error| GenerateError::Invalid(error.to_string()))?;
        }
        let options = DetokenizeOptions { skip_special: true, continues: start.continues };
        let shown = start.markup.as_ref().map(|markup| markup.shown.clone()).unwrap_or_default();
        let detokenizer = self.codec.detokenizer_showing(options, shown);
        let text = (detokenizer, StopMatcher::new(&start.limits.stop));
        let stream = Stream::new(answer.clone(), choice, text).with_markup(start.markup.as_ref());
        self.delivery.push(name, Instant::now(), Update::Open(Box::new(stream)));
        updates.into_iter().for_each(|update| self.delivery.push(name, Instant::now(), update));
        if !ended {
            self.sequences.insert(name, sequence);
        }
        Ok(name)
    }
}
