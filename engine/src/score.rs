//! What a model makes of a text: the probability it gives each token after those before it.
//!
//! For measuring what a choice of options costs, such as how keys and values are stored. Computes on the caller's
//! thread, one text at a time, through the same pool and kernels as an engine does. Serves no requests; `serving` does.

use std::ops::Range;
use std::path::Path;

use mlxcel_mlx_bridge::Dtype;

use crate::api::{LoadOptions, LoadStep};
use crate::blocks::{BlockStore, BlockTable, blocks_for};
use crate::decoder::{Model, StepOutput};
use crate::described::described;
use crate::device::Device;
use crate::schedule::{SequenceId, Span, StepPlan, Token};
use crate::serving::LoadError;
use crate::state::{MixerCache, block_store};
use crate::text::{PromptError, TextCodec};

/// Tokens of a step: what keeps the logits small.
const STEP_TOKENS: usize = 256;

/// A model that scores texts.
pub struct Scorer {
    model: Model,
    codec: TextCodec,
}

/// What a model made of one token, given those before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Natural logarithm of the token's probability.
    pub logprob: f64,
    /// The token it thought likeliest.
    pub likeliest: u32,
}

impl std::fmt::Debug for Scorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scorer").field("family", &self.model.description.family).finish_non_exhaustive()
    }
}

impl Scorer {
    /// Loads the model in `path` under the options; those of requests and their number do not matter.
    ///
    /// # Errors
    /// As for [`crate::load`].
    pub fn load(
        path: &Path,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Self, LoadError> {
        let device = Device::choose(options.device)?;
        device.make_default()?;
        let (checkpoint, description) = described(path)?;
        let vocab_size = u32::try_from(description.vocab_size).unwrap_or(u32::MAX);
        let codec = TextCodec::new(&checkpoint.text_assets()?, vocab_size)?;
        let model = Model::load(description, &checkpoint, device.execution(), options.quantize, progress)?;
        Ok(Self { model: model.with_kv_dtype(options.kv_dtype), codec })
    }

    /// The tokens of a text, with nothing before or after them.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        self.codec.encode(text, false)
    }

    /// Bytes of keys and values a token of a sequence takes.
    pub fn kv_bytes_per_token(&self) -> u64 {
        self.model.kv_block_bytes() / crate::blocks::BLOCK_TOKENS as u64
    }

    /// A score for each token but the first, which has none before it. Tokens outside the vocabulary score minus
    /// infinity.
    ///
    /// # Errors
    /// When MLX refuses, for want of memory.
    pub fn score(&self, tokens: &[u32]) -> mlxcel_mlx_bridge::Result<Vec<Scored>> {
        let blocks = blocks_for(tokens.len());
        let bytes = [self.model.state_bytes(), self.model.kv_block_bytes()];
        let (mut cache, mut store) = (self.model.cache(blocks), block_store(blocks, 1, bytes));
        let mut table = BlockTable::default();
        let mut scores = Vec::with_capacity(tokens.len().saturating_sub(1));
        for start in (0..tokens.len().saturating_sub(1)).step_by(STEP_TOKENS) {
            let rows = start..(start + STEP_TOKENS).min(tokens.len() - 1);
            // As many blocks as the text needs, and nobody else to take them.
            let _ = store.grow(&mut table, rows.len());
            scores.extend(self.step(tokens, rows, &mut table, (&mut cache, &mut store))?);
        }
        Ok(scores)
    }

    /// Computes the tokens at `rows`: the scores of those that follow each.
    fn step(
        &self,
        tokens: &[u32],
        rows: Range<usize>,
        table: &mut BlockTable,
        (cache, store): (&mut MixerCache, &mut BlockStore),
    ) -> mlxcel_mlx_bridge::Result<Vec<Scored>> {
        // One text has a slot at least.
        let state = store.advance(table, rows.len()).unwrap_or_default();
        let span = Span {
            sequence: SequenceId(0),
            tokens: tokens[rows.clone()].iter().copied().map(Token::Known).collect(),
            start: rows.start,
            samples: rows.len(),
            blocks: table.shared(),
            state,
        };
        let plan = StepPlan { spans: vec![span], copies: Vec::new() };
        let StepOutput::Logits(logits) = self.model.forward(plan, None, cache)? else {
            return Ok(Vec::new());
        };
        let logits: Vec<f32> = logits.astype(Dtype::Float32)?.to_vec()?;
        let next = tokens[rows.start + 1..=rows.end].iter();
        let width = self.model.description.vocab_size.max(1);
        Ok(next.zip(logits.chunks_exact(width)).map(|(&token, logits)| scored(logits, token)).collect())
    }
}

/// The score of `token` under `logits`.
fn scored(logits: &[f32], token: u32) -> Scored {
    let mut best = (0, f32::NEG_INFINITY);
    for (at, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (at, logit);
        }
    }
    let most = f64::from(best.1);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum();
    let logit = logits.get(token as usize).map_or(f64::NEG_INFINITY, |&logit| f64::from(logit));
    Scored { logprob: logit - most - sum.ln(), likeliest: u32::try_from(best.0).unwrap_or(u32::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_the_logarithm_of_the_softmax() {
        let score = scored(&[0.0, 2.0f32.ln(), 0.0], 0);
        assert!((score.logprob - 0.25f64.ln()).abs() < 1e-7, "{score:?}");
        assert_eq!(score.likeliest, 1);
        assert_eq!(scored(&[0.0], 7).logprob, f64::NEG_INFINITY);
    }
}
