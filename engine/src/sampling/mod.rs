//! Chooses the next token of a sequence from its logits.
//!
//! Owns the sequence's penalties and its random stream. Knows no model, text or stop condition;
//! the engine loop says which tokens were seen and accepted.

mod choose;
mod error;
mod history;
mod logprobs;
mod params;
mod row;
#[cfg(test)]
mod tests;
mod weight;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

pub use self::error::SamplingError;
pub use self::logprobs::{Ranking, rank};
pub(crate) use self::row::{Choice, RowChoice, RowSampler, SharedRow, choose_rows};

use self::choose::{Chooser, Filters, least_weight};
use self::history::History;
use crate::SamplingParams;

/// All that a choice depends on beside the logits, where nothing else is wanted of them: what a device needs to make it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Draw {
    /// 0 takes the largest logit.
    pub(crate) temperature: f32,
    /// 0 keeps all.
    pub(crate) top_k: u32,
    pub(crate) top_p: f32,
    /// The least weight that min-p keeps, relative to that of the most likely token, `weight::ONE`.
    pub(crate) least: u32,
    pub(crate) random: u64,
}

impl Draw {
    /// Of a row that nobody reads.
    pub(crate) const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, least: 1, random: 0 };
}

/// The sampler of one sequence.
///
/// Logits pass through, in this order (that of Hugging Face's logits processors and warpers):
/// repetition penalty, frequency and presence penalty, logit bias, temperature, top-k, top-p,
/// min-p. Top-p looks at probabilities renormalised over what top-k keeps; min-p is relative to the
/// most likely token. Temperature 0 takes the largest logit after the bias, the lowest id among
/// equals.
///
/// A draw depends only on the logits, the parameters, the seed and the number of tokens accepted:
/// a sampler given the same seed, prompt and accepted tokens elsewhere goes on as this one would.
/// The random number of token `i` is the first 64 bits of block `i` of the ChaCha8 stream whose
/// key is the seed, little-endian, followed by zeros.
#[derive(Debug, Clone)]
pub struct Sampler {
    vocab_size: usize,
    filters: Filters,
    bias: Vec<(usize, f32)>,
    history: History,
    seed: u64,
    accepted: u64,
    chooser: Chooser,
}

impl Sampler {
    /// A sampler for logits of `vocab_size` tokens.
    ///
    /// # Errors
    /// A parameter breaks its rule; the error names field, rule and value.
    pub fn new(params: &SamplingParams, vocab_size: usize) -> Result<Self, SamplingError> {
        params::check(params, vocab_size)?;
        Ok(Self {
            vocab_size,
            filters: Filters {
                temperature: params.temperature,
                top_k: params.top_k as usize,
                top_p: params.top_p,
                min_p: params.min_p,
            },
            bias: params.logit_bias.iter().map(|(&id, &bias)| (id as usize, bias)).collect(),
            history: History::new(params),
            seed: params.seed.unwrap_or_else(rand::random),
            accepted: 0,
            chooser: Chooser::default(),
        })
    }

    /// Tells the prompt, which the repetition penalty counts. Call before any `accept`.
    pub fn observe_prompt(&mut self, tokens: &[u32]) {
        self.history.observe_prompt(tokens);
    }

    /// Tells a generated token, whether this sampler chose it or another before it.
    pub fn accept(&mut self, token: u32) {
        self.history.accept(token);
        self.accepted += 1;
    }

    /// Chooses the next token; `accept` it to go on. `logits` are overwritten.
    ///
    /// # Errors
    /// `logits` are not one per token, or not numbers.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32, SamplingError> {
        if logits.len() != self.vocab_size {
            let (got, wanted) = (logits.len(), self.vocab_size);
            return Err(SamplingError::LogitsLength { got, wanted });
        }
        self.history.penalise(logits);
        for &(id, bias) in &self.bias {
            logits[id] += bias;
        }
        let random = self.random(self.accepted);
        self.chooser.choose(logits, &self.filters, random)
    }

    /// Whether `sample` is the plain argmax of the logits, which a device can take itself.
    pub fn is_plain_greedy(&self) -> bool {
        self.filters.temperature == 0.0 && self.bias.is_empty() && self.history.is_neutral()
    }

    /// The seed given, or the one drawn from the operating system.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How token `index` is chosen, counted from the first that was accepted; nothing where penalties or bias change the
    /// logits before that.
    pub(crate) fn draw(&self, index: u64) -> Option<Draw> {
        let Filters { temperature, top_k, top_p, min_p } = self.filters;
        (self.bias.is_empty() && self.history.is_neutral()).then(|| Draw {
            temperature,
            top_k: u32::try_from(top_k).unwrap_or(0),
            top_p,
            least: least_weight(min_p),
            random: self.random(index),
        })
    }

    /// The random number of token `index`, where one is drawn.
    fn random(&self, index: u64) -> u64 {
        if self.filters.temperature == 0.0 {
            return 0;
        }
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        let mut stream = ChaCha8Rng::from_seed(key);
        stream.set_word_pos(u128::from(index) * 16);
        stream.next_u64()
    }
}
