//! How fast a node is with a model, by the answers it has given.
//!
//! Measured by the engine, so that queues and networks are not in it. Knows one node and model; `fleet` keeps one of each.

use std::time::Duration;

/// Rates, as exponentially weighted means over answers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Speed {
    /// Seconds that a token of a prompt takes; 0 where not known.
    prefill_seconds: f64,
    /// Seconds between two tokens of an answer; 0 where not known.
    gap_seconds: f64,
}

impl Speed {
    /// An answer has ended: of its prompt so many tokens were computed in `prefill`, then so many generated in `decode`.
    pub(crate) fn learn(&mut self, (computed, prefill): (u32, Duration), (tokens, decode): (u32, Duration)) {
        // What a short prompt takes is mostly the step itself.
        if computed >= FEWEST {
            average(&mut self.prefill_seconds, prefill.as_secs_f64() / f64::from(computed));
        }
        // The first token ends the prefill.
        if tokens > 1 {
            average(&mut self.gap_seconds, decode.as_secs_f64() / f64::from(tokens - 1));
        }
    }

    /// What a prompt of so many uncached tokens takes, where that is known.
    pub(crate) fn prefill(&self, tokens: u32) -> Option<Duration> {
        seconds(self.prefill_seconds * f64::from(tokens))
    }

    /// What the next token takes, where that is known.
    pub(crate) fn gap(&self) -> Option<Duration> {
        seconds(self.gap_seconds)
    }
}

fn average(mean: &mut f64, sample: f64) {
    let weight = if *mean == 0.0 { 1.0 } else { WEIGHT };
    *mean += (sample - *mean) * weight;
}

fn seconds(seconds: f64) -> Option<Duration> {
    (seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// Fewest tokens of a prompt that say something about its rate.
const FEWEST: u32 = 16;
/// Of the latest answer.
const WEIGHT: f64 = 0.2;
