//! The forward pass, written once over the description.
//!
//! Takes a ragged step and returns logits for the rows that want them. Decides nothing about
//! which tokens to compute (`schedule`), how (`Arithmetic`), or where keys and values live (`KvCache`).

use mlxcel_mlx_bridge::{Array, Dtype, Result};

use super::arithmetic::{Arithmetic, length};
use super::description::Decoder;
use super::inputs::{SampledTokens, StepInputs};
use super::weights::{AttentionWeights, DecoderWeights, LayerWeights, NormWeights};
use crate::kv::KvCache;
use crate::schedule::StepPlan;

/// A decoder with its weights and its way to compute.
pub(crate) struct Model {
    pub(crate) description: Decoder,
    pub(crate) weights: DecoderWeights,
    pub(crate) arithmetic: Box<dyn Arithmetic>,
    pub(crate) execution: super::build::Execution,
    /// The dtype of activations and of the KV cache.
    pub(crate) dtype: Dtype,
}

impl Model {
    /// Logits `[sampled spans, vocabulary]` of a step; where no span is sampled, an array whose
    /// evaluation completes the step. Awaited tokens are those of `previous`.
    pub(crate) fn forward(
        &self,
        plan: StepPlan,
        previous: Option<&SampledTokens>,
        cache: &mut dyn KvCache,
    ) -> Result<StepOutput> {
        let step = StepInputs::new(plan, previous)?;
        let mut hidden = self.arithmetic.embed(&step.ids, &self.weights.embedding)?;
        let mut delta: Option<Array> = None;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let normed = self.advance(&mut hidden, delta.take(), &layer.mixer_norm)?;
            let mixed = self.attention(index, &normed, &step, cache)?;
            let normed = self.advance(&mut hidden, Some(mixed), &layer.feed_forward_norm)?;
            delta = Some(self.feed_forward(layer, &normed)?);
        }
        let rows = step.plan.sampled_rows();
        if rows.is_empty() {
            return Ok(StepOutput::Computed(delta.unwrap_or(hidden)));
        }
        let (hidden, delta) =
            (select(&hidden, &rows, &step)?, delta.map(|d| select(&d, &rows, &step)).transpose()?);
        self.logits(hidden, delta).map(StepOutput::Logits)
    }

    /// Adds `delta` to the residual stream and normalises it.
    fn advance(&self, hidden: &mut Array, delta: Option<Array>, norm: &NormWeights) -> Result<Array> {
        match delta {
            None => self.arithmetic.norm(hidden, norm),
            Some(delta) => {
                let (sum, normed) = self.arithmetic.add_norm(hidden, &delta, norm)?;
                *hidden = sum;
                Ok(normed)
            }
        }
    }

    fn attention(
        &self,
        index: usize,
        x: &Array,
        step: &StepInputs,
        cache: &mut dyn KvCache,
    ) -> Result<Array> {
        let weights = &self.weights.layers[index].attention;
        let shape = &weights.shape;
        let query = self.heads(x, &weights.query, shape.heads, weights)?;
        let key = self.heads(x, &weights.key, shape.kv_heads, weights)?;
        let value = self.heads(x, &weights.value, shape.kv_heads, weights)?;
        let query = self.rotated(query, weights.query_norm.as_ref(), weights, step)?;
        let key = self.rotated(key, weights.key_norm.as_ref(), weights, step)?;
        let mixed = cache.attend(index, shape, [&query, &key, &value], step)?;
        let width = length(shape.heads * shape.head_dim);
        self.arithmetic.linear(&mixed.reshape(&[-1, width])?, &weights.output)
    }

    fn heads(
        &self,
        x: &Array,
        linear: &super::weights::LinearWeights,
        heads: usize,
        weights: &AttentionWeights,
    ) -> Result<Array> {
        let projected = self.arithmetic.linear(x, linear)?;
        projected.reshape(&[-1, length(heads), length(weights.shape.head_dim)])
    }

    fn rotated(
        &self,
        x: Array,
        norm: Option<&NormWeights>,
        weights: &AttentionWeights,
        step: &StepInputs,
    ) -> Result<Array> {
        let x = match norm {
            Some(norm) => self.arithmetic.norm(&x, norm)?,
            None => x,
        };
        self.arithmetic.rope(&x, step, &weights.rope)
    }

    fn feed_forward(&self, layer: &LayerWeights, x: &Array) -> Result<Array> {
        let gate = self.arithmetic.linear(x, &layer.gate)?;
        let up = self.arithmetic.linear(x, &layer.up)?;
        let inner = self.arithmetic.gated(&gate, &up, layer.activation)?;
        self.arithmetic.linear(&inner, &layer.down)
    }

    fn logits(&self, mut hidden: Array, delta: Option<Array>) -> Result<Array> {
        let normed = self.advance(&mut hidden, delta, &self.weights.final_norm)?;
        match &self.weights.head {
            Some(head) => self.arithmetic.linear(&normed, head),
            None => self.arithmetic.matrix(&normed, &self.weights.embedding),
        }
    }
}

/// What a step leaves to evaluate.
pub(crate) enum StepOutput {
    /// `[sampled spans, vocabulary]`.
    Logits(Array),
    /// Nothing is sampled; evaluating this completes the step.
    Computed(Array),
}

/// The given rows of `x`; `x` itself where they are all of them.
fn select(x: &Array, rows: &[u32], step: &StepInputs) -> Result<Array> {
    if rows.len() == step.len {
        return Ok(x.clone());
    }
    x.take(&Array::from_slice(rows, &[length(rows.len())])?, 0)
}
