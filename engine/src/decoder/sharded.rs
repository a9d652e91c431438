//! Arithmetic of one rank among several that share every layer.
//!
//! Computes its part by the arithmetic it wraps and combines it with the others': a sum after each of the two blocks of
//! a layer and after the embedding, a gathering of logits. Knows no transport; `Ranks` does.

use std::ops::Range;

use mlxcel_mlx_bridge::{Array, Error, Result};

use super::arithmetic::{Arithmetic, length};
use super::description::Activation;
use super::inputs::StepInputs;
use super::residual::Residual;
use super::weights::{AttentionWeights, LayerWeights, LinearWeights, MatrixWeights, NormWeights};
use super::weights::{RopeWeights, ShortConvWeights};
use crate::ranks::Ranks;

/// The arithmetic of a rank.
pub(crate) struct ShardedArithmetic {
    own: Box<dyn Arithmetic>,
    ranks: Box<dyn Ranks>,
    /// The arithmetic it wraps sums within its own blocks.
    sums_within: bool,
    vocabulary: Option<Vocabulary>,
    vocab_size: usize,
}

/// Which rows of the embedding a rank has.
struct Vocabulary {
    /// The row of each token, u32 `[vocab_size]`; 0 for those of others.
    rows: Array,
    /// 1 for its own tokens, 0 for those of others: `[vocab_size]`.
    owned: Array,
}

impl ShardedArithmetic {
    /// `sums_within` where `own` sums over the ranks what its blocks add. `embedded` are the tokens whose embedding this rank has, in the first stage.
    pub(crate) fn new(
        (own, sums_within): (Box<dyn Arithmetic>, bool),
        ranks: Box<dyn Ranks>,
        embedded: Option<Range<usize>>,
        vocab_size: usize,
    ) -> Result<Self> {
        let vocabulary = embedded.map(|tokens| Vocabulary::new(&tokens, vocab_size)).transpose()?;
        Ok(Self { own, ranks, sums_within, vocabulary, vocab_size })
    }
}

impl Vocabulary {
    fn new(tokens: &Range<usize>, vocab_size: usize) -> Result<Self> {
        let row = |token: usize| if tokens.contains(&token) { token - tokens.start } else { 0 };
        let rows: Vec<u32> = (0..vocab_size).map(|token| row(token) as u32).collect();
        let owned: Vec<f32> = (0..vocab_size).map(|token| f32::from(tokens.contains(&token))).collect();
        let shape = [length(vocab_size)];
        Ok(Self { rows: Array::from_slice(&rows, &shape)?, owned: Array::from_slice(&owned, &shape)? })
    }
}

impl Arithmetic for ShardedArithmetic {
    fn embed(&self, ids: &Array, table: &MatrixWeights) -> Result<Array> {
        let missing = || Error::argument("embed", "the embedding is held by another stage");
        let vocabulary = self.vocabulary.as_ref().ok_or_else(missing)?;
        let rows = self.own.embed(&vocabulary.rows.take(ids, 0)?, table)?;
        let owned = vocabulary.owned.take(ids, 0)?.astype(rows.dtype())?.expand_dims(&[1])?;
        self.ranks.all_sum(&rows.multiply(&owned)?)
    }

    fn linear(&self, x: &Array, weights: &LinearWeights) -> Result<Array> {
        self.own.linear(x, weights)
    }

    fn matrix(&self, x: &Array, weights: &MatrixWeights) -> Result<Array> {
        self.own.matrix(x, weights)
    }

    fn logits(&self, x: &Array, head: &LinearWeights) -> Result<Array> {
        let part = self.own.logits(x, head)?;
        let (rows, ranks) = (part.dim(0)?, length(self.ranks.size()));
        // Parts are as even as they can be: the longest has so many, others a place or so to spare.
        let most = length(self.vocab_size.div_ceil(self.ranks.size()));
        let spare = most - part.dim(1)?;
        let padded = if spare > 0 { part.pad(&[0, 0], &[0, spare], 0.0)? } else { part };
        let all = self.ranks.all_gather(&padded)?.reshape(&[ranks, rows, most])?;
        let parts = (0..self.ranks.size()).map(|rank| {
            let (of, size) = (self.ranks.size(), self.vocab_size);
            let width = length((rank + 1) * size / of - rank * size / of);
            let rank = length(rank);
            all.slice(&[rank, 0, 0], &[rank + 1, rows, width])?.reshape(&[rows, width])
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Array::concatenate(&parts.iter().collect::<Vec<_>>(), 1)
    }

    fn norm(&self, x: &Array, weights: &NormWeights) -> Result<Array> {
        self.own.norm(x, weights)
    }

    fn add_norm(&self, x: &Array, delta: &Array, weights: &NormWeights) -> Result<(Array, Array)> {
        self.own.add_norm(x, delta, weights)
    }

    fn rope(&self, x: &Array, step: &StepInputs, rope: &RopeWeights) -> Result<Array> {
        self.own.rope(x, step, rope)
    }

    fn gated(&self, gate: &Array, up: &Array, activation: Activation) -> Result<Array> {
        self.own.gated(gate, up, activation)
    }

    fn advance(&self, residual: &mut Residual, norm: &NormWeights) -> Result<Array> {
        self.own.advance(residual, norm)
    }

    fn attention_inputs(
        &self,
        residual: &mut Residual,
        layer: &LayerWeights,
        weights: &AttentionWeights,
        step: &StepInputs,
    ) -> Result<[Array; 3]> {
        self.own.attention_inputs(residual, layer, weights, step)
    }

    fn short_conv_inputs(
        &self,
        residual: &mut Residual,
        layer: &LayerWeights,
        weights: &ShortConvWeights,
    ) -> Result<[Array; 3]> {
        self.own.short_conv_inputs(residual, layer, weights)
    }

    fn feed_forward(&self, x: &Array, layer: &LayerWeights) -> Result<Array> {
        self.ranks.all_sum(&self.own.feed_forward(x, layer)?)
    }

    fn finish_layer(&self, residual: &mut Residual, mixed: &Array, layer: &LayerWeights) -> Result<()> {
        if self.sums_within {
            return self.own.finish_layer(residual, mixed, layer);
        }
        let mixed = mixed.reshape(&[-1, length(layer.mixer.width())])?;
        let part = self.own.linear(&mixed, layer.mixer.output())?;
        // Inputs of the mixer may have been made without noting the sum they are made of.
        *residual = Residual::new(residual.added()?);
        residual.delta = Some(self.ranks.all_sum(&part)?);
        let x = self.advance(residual, &layer.feed_forward_norm)?;
        residual.delta = Some(self.feed_forward(&x, layer)?);
        Ok(())
    }
}
