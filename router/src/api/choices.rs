//! The choices of one answer as they come: gathered for a whole answer, or turned into chunks.
//!
//! Remembers of each choice what later parts of it need. Knows no connection: `complete` sends what this makes.

use mlxcel_protocol::v1::{ChoiceDelta, FinishReason, Finished, ToolCallDelta};
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
                    choice.reasoning.push_str(&delta.reasoning);
                    join_calls(&mut choice.tool_calls, delta.tool_calls);
                    choice.set_ended(ended);
                }
                None => self.0.push(delta),
            }
        }
    }

    /// The answer's choices, in order. One whose end was not told of its own ended with the request.
    pub(crate) fn finish(&self, heading: &Heading, finished: &Finished) -> Vec<Value> {
        let choice = |index| {
            let gathered = self.0.iter().find(|choice| choice.choice == index).cloned();
            let gathered =
                gathered.unwrap_or_else(|| ChoiceDelta { choice: index, ..ChoiceDelta::default() });
            let logprobs = logprobs_of(heading, &gathered, &mut 0);
            heading.choice(&gathered, logprobs, reason(&gathered, finished))
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
            if !delta.reasoning.is_empty() {
                chunks.push(heading.reasoning(delta.choice, &delta.reasoning));
            }
            if !delta.text.is_empty() || !delta.logprobs.is_empty() {
                let logprobs = logprobs_of(heading, delta, &mut progress.offset);
                chunks.push(heading.text(delta.choice, &delta.text, logprobs));
            }
            if !delta.tool_calls.is_empty() {
                chunks.push(heading.tool_calls(delta.choice, &delta.tool_calls));
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

/// Parts of a call carry its number.
fn join_calls(calls: &mut Vec<ToolCallDelta>, parts: Vec<ToolCallDelta>) {
    for part in parts {
        match calls.iter_mut().find(|call| call.index == part.index) {
            Some(call) => call.arguments.push_str(&part.arguments),
            None => calls.push(part),
        }
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
