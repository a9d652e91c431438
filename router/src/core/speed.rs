//! How fast a node is with a model, by the answers it has given.
//!
//! Measured by the engine, so that networks are not in it; what waited there is taken into account. Knows one node and model; `fleet` keeps one of each.

use std::time::Duration;

/// Rates, as exponentially weighted figures over answers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Speed {
    /// Seconds that a token of a prompt takes; 0 where not known.
    prefill_seconds: f64,
    gaps: Gaps,
    /// Answers it has given.
    answers: u32,
}

/// Seconds between two tokens of an answer, over the number of sequences beside it: a line, by weighted least squares.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Gaps {
    weight: f64,
    beside: f64,
    seconds: f64,
    /// Means of the squares and of the products.
    squares: f64,
    products: f64,
}

impl Speed {
    /// An answer has ended: of its prompt and of those before it so many tokens were computed in `prefill`, then so many generated in `decode`, beside so many other
    /// sequences in the mean.
    pub(crate) fn learn(
        &mut self,
        (computed, prefill): (f64, Duration),
        (tokens, decode): (u32, Duration),
        beside: f64,
    ) {
        // In the first, weights may have been read and kernels compiled.
        self.answers = self.answers.saturating_add(1);
        if self.answers == 1 {
            return;
        }
        // What a short prompt takes is mostly the step itself.
        if computed >= FEWEST {
            let sample = prefill.as_secs_f64() / computed;
            let weight = if self.prefill_seconds == 0.0 { 1.0 } else { WEIGHT };
            self.prefill_seconds += (sample - self.prefill_seconds) * weight;
        }
        // The first token ends the prefill.
        if tokens > 1 {
            self.gaps.learn(beside, decode.as_secs_f64() / f64::from(tokens - 1));
        }
    }

    /// What is known is old; the next answer counts for all.
    pub(crate) fn forget(&mut self) {
        *self = Self { answers: self.answers, ..Self::default() };
    }

    /// What a prompt of so many uncached tokens takes, where that is known.
    pub(crate) fn prefill(&self, tokens: u32) -> Option<Duration> {
        positive(self.prefill_seconds * f64::from(tokens))
    }

    /// Seconds for a token of a prompt; 0 where that is not known.
    pub(crate) fn prefill_seconds(&self) -> f64 {
        self.prefill_seconds
    }

    /// What the next token takes beside as many sequences as usual, where that is known.
    pub(crate) fn gap(&self) -> Option<Duration> {
        positive(self.gaps.seconds)
    }

    /// What the next token takes beside so many sequences, where that is known.
    pub(crate) fn gap_beside(&self, sequences: u32) -> Option<Duration> {
        positive(self.gaps.at(f64::from(sequences)))
    }
}

impl Gaps {
    fn learn(&mut self, beside: f64, seconds: f64) {
        self.weight = self.weight * (1.0 - WEIGHT) + 1.0;
        let weight = 1.0 / self.weight;
        self.beside += (beside - self.beside) * weight;
        self.seconds += (seconds - self.seconds) * weight;
        self.squares += (beside * beside - self.squares) * weight;
        self.products += (beside * seconds - self.products) * weight;
    }

    fn at(&self, beside: f64) -> f64 {
        // Computing for one more costs something, and at most as much as for each before it.
        let most = self.seconds / (self.beside + 1.0);
        let variance = self.squares - self.beside * self.beside;
        let slope = match variance > LEAST_VARIANCE {
            true => ((self.products - self.beside * self.seconds) / variance).clamp(0.0, most),
            false => most / 2.0,
        };
        (self.seconds + slope * (beside - self.beside)).max(self.seconds / 16.0)
    }
}

fn positive(seconds: f64) -> Option<Duration> {
    (seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// Fewest tokens of a prompt that say something about its rate.
const FEWEST: f64 = 16.0;
/// Of the latest answer.
const WEIGHT: f64 = 0.1;
/// Of the sequences beside it, for a slope to be believed.
const LEAST_VARIANCE: f64 = 0.5;
