//! The choices of one answer as they come: gathered for a whole answer, or turned into chunks.
//!
//! Remembers of each choice what later parts of it need. Knows no connection: `complete` sends what this makes.

use mlxcel_protocol::v1::{ChoiceDelta, FinishReason, Finished};
use serde_json::Value;

use super::answer::{Endpoint, Heading};
use super::logprobs;

/// The choices of an answer that is sent whole.
#[derive(Debug, Default)]
pub(crate) struct Gathered(Vec<ChoiceDelta>);

impl Gathered {
    /// Takes more output.
    pub(crate) fn add(&mut self, deltas: Vec<ChoiceDelta>) {
        for delta in deltas {
            let ended = delta.ended();
            match self.0.iter_mut().find(|choice| choice.choice == delta.choice) {
                Some(choice) => {
                    choice.text.push_str(&delta.text);
                    choice.logprobs.extend(delta.logprobs);
                    choice.set_ended(ended);
                }
                None => self.0.push(delta),
            }
        }
    }

    /// The answer's choices, in order. One whose end was not told of its own ended with the request.
    pub(crate) fn finish(&self, heading: &Heading, finished: &Finished) -> Vec<Value> {
        let empty = ChoiceDelta::default();
        let choice = |index| {
            let gathered = self.0.iter().find(|choice| choice.choice == index).unwrap_or(&empty);
            let logprobs = logprobs_of(heading, gathered, &mut 0);
            heading.choice(index, &gathered.text, logprobs, reason(gathered, finished))
        };
        (0..heading.choices).map(choice).collect()
    }
}

/// The choices of an answer that is streamed.
#[derive(Debug)]
pub(crate) struct Streamed(Vec<Progress>);

#[derive(Debug, Clone, Default)]
struct Progress {
    /// Characters sent.
    offset: usize,
    ended: bool,
}

impl Streamed {
    /// Nothing sent of any of `choices` choices.
    pub(crate) fn new(choices: u32) -> Self {
        Self(vec![Progress::default(); choices as usize])
    }

    /// The chunks for more output.
    pub(crate) fn chunks(&mut self, heading: &Heading, deltas: &[ChoiceDelta]) -> Vec<Value> {
        let mut chunks = Vec::new();
        for delta in deltas {
            let Some(progress) = self.0.get_mut(delta.choice as usize) else {
                tracing::warn!(request = %heading.id, choice = delta.choice, "output of a choice not asked for");
                continue;
            };
            if !delta.text.is_empty() || !delta.logprobs.is_empty() {
                let logprobs = logprobs_of(heading, delta, &mut progress.offset);
                chunks.push(heading.text(delta.choice, &delta.text, logprobs));
            }
            if delta.ended() != FinishReason::Unspecified {
                progress.ended = true;
                chunks.push(heading.ending(delta.choice, delta.ended()));
            }
        }
        chunks
    }

    /// The chunks that end all choices still open, with the request.
    pub(crate) fn endings(&self, heading: &Heading, finished: &Finished) -> Vec<Value> {
        let open = (0..).zip(&self.0).filter(|(_, progress)| !progress.ended);
        open.map(|(index, _)| heading.ending(index, finished.reason())).collect()
    }
}

fn reason(choice: &ChoiceDelta, finished: &Finished) -> FinishReason {
    match choice.ended() {
        FinishReason::Unspecified => finished.reason(),
        ended => ended,
    }
}

fn logprobs_of(heading: &Heading, delta: &ChoiceDelta, offset: &mut usize) -> Value {
    match heading.endpoint {
        _ if !heading.logprobs => Value::Null,
        Endpoint::Chat => logprobs::of_chat(&delta.logprobs),
        Endpoint::Text => logprobs::of_text(&delta.logprobs, offset),
    }
}
