//! When a node would be done with a request, by what is measured of it and by what it has to do.
//!
//! Pure arithmetic over rates and counts of tokens, never over counts of requests alone: a slow node with nothing to do may take longer
//! than a fast one with a queue, and then gets nothing. Knows no node by name; `fleet` keeps the figures, `dispatch` compares.

use std::time::Duration;

use super::speed::Speed;

/// What a request asks of whichever node takes it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Ask {
    /// Of the request as it is sent.
    pub(crate) bytes: usize,
    /// Most tokens of each answer; 0 where that is not said.
    pub(crate) max_tokens: u32,
    pub(crate) choices: u32,
    /// The part of its prompt that the node has already, from 0 to 1.
    pub(crate) had: f64,
}

/// What requests for a model are like, as exponentially weighted means over those that have ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Habit {
    bytes_per_token: f64,
    answer_tokens: f64,
}

impl Default for Habit {
    /// English in JSON, and a paragraph in answer.
    fn default() -> Self {
        Self { bytes_per_token: 4.0, answer_tokens: 256.0 }
    }
}

impl Habit {
    /// A request of this size has ended.
    pub(crate) fn learn(&mut self, ask: Ask, prompt_tokens: u32, answer_tokens: u32) {
        if prompt_tokens > 0 {
            let sample = ask.bytes as f64 / f64::from(prompt_tokens);
            self.bytes_per_token += (sample - self.bytes_per_token) * WEIGHT;
        }
        self.answer_tokens += (f64::from(answer_tokens) - self.answer_tokens) * WEIGHT;
    }

    /// What such a request is likely to need.
    pub(crate) fn expect(&self, ask: Ask) -> Need {
        let usual = self.answer_tokens.max(1.0);
        let most = if ask.max_tokens > 0 { f64::from(ask.max_tokens) } else { usual };
        let prompt = ask.bytes as f64 / self.bytes_per_token.max(0.25) * (1.0 - ask.had);
        Need { prompt_tokens: prompt, answer_tokens: usual.min(most) * f64::from(ask.choices.max(1)) }
    }
}

/// Tokens that a request needs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Need {
    /// Of the prompt, to be computed.
    pub(crate) prompt_tokens: f64,
    pub(crate) answer_tokens: f64,
}

/// What a node has to do for one model, this router's own decisions included from the moment they are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Work {
    /// Tokens of prompts that are not computed yet, as far as known.
    pub(crate) prefill_tokens: f64,
    /// Tokens that are still to be generated, as far as known.
    pub(crate) decode_tokens: f64,
    /// Sequences.
    pub(crate) sequences: u32,
    /// How many run at once; more wait for one to end.
    pub(crate) slots: u32,
}

/// How long a node with this speed and this to do takes until it is done with one request more. None where its
/// speed is not known.
pub(crate) fn completion(speed: &Speed, work: &Work, need: Need) -> Option<Duration> {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let gap = seconds(speed.gap_beside(work.sequences.min(work.slots.saturating_sub(1))))?;
    // Prompts too short to measure take next to nothing.
    let prefill = speed.prefill_seconds();
    let before = work.prefill_tokens * prefill;
    // What does not run yet waits for those that do, which end one after the other.
    let excess = (work.sequences + 1).saturating_sub(work.slots);
    let wait = match work.slots {
        0 => 0.0,
        slots => {
            let each = work.decode_tokens / f64::from(work.sequences.max(1));
            f64::from(excess) / f64::from(slots) * each * gap
        }
    };
    let own = need.prompt_tokens * prefill + need.answer_tokens * gap;
    Duration::try_from_secs_f64(before + wait + own).ok()
}

/// Of the latest request in a mean.
const WEIGHT: f64 = 0.05;
