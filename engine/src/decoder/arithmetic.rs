//! The arithmetic a decoder needs, apart from attention.
//!
//! Three implementations: `HostArithmetic` runs our CPU kernels in f32, `CudaArithmetic` our CUDA kernels in the
//! model's dtype, `GraphArithmetic` plain MLX operations on any device, and is the slow twin of the others.
//! The forward pass does not know which one it drives; `load` decides.

use mlxcel_mlx_bridge::{Array, Result};

use super::description::Activation;
use super::inputs::StepInputs;
use super::residual::Residual;
use super::weights::{AttentionWeights, LayerWeights, LinearWeights, MatrixWeights, NormWeights};
use super::weights::{RopeWeights, ShortConvWeights};

/// Operations on the flat hidden state `[tokens, width]`.
///
/// Those of whole blocks are made of the small ones, unless an implementation does them at once.
pub(crate) trait Arithmetic {
    /// Rows of the embedding for `ids`, u32 `[tokens]`: `[tokens, hidden]`.
    fn embed(&self, ids: &Array, table: &MatrixWeights) -> Result<Array>;

    /// `x W^T (+ b)`: `[tokens, inputs]` to `[tokens, outputs]`.
    fn linear(&self, x: &Array, weights: &LinearWeights) -> Result<Array>;

    /// `x W^T`, as `linear`.
    fn matrix(&self, x: &Array, weights: &MatrixWeights) -> Result<Array>;

    /// Logits `[tokens, vocabulary]` from the output head.
    fn logits(&self, x: &Array, head: &LinearWeights) -> Result<Array> {
        self.linear(x, head)
    }

    /// Normalises the last axis.
    fn norm(&self, x: &Array, weights: &NormWeights) -> Result<Array>;

    /// `x + delta`, and the norm of the sum.
    fn add_norm(&self, x: &Array, delta: &Array, weights: &NormWeights) -> Result<(Array, Array)> {
        let sum = x.add(delta)?;
        let normed = self.norm(&sum, weights)?;
        Ok((sum, normed))
    }

    /// Rotates `x`, `[tokens, heads, head_dim]`, to the positions of the step.
    fn rope(&self, x: &Array, step: &StepInputs, rope: &RopeWeights) -> Result<Array>;

    /// `activation(gate) * up`.
    fn gated(&self, gate: &Array, up: &Array, activation: Activation) -> Result<Array>;

    /// Adds what is pending to the residual stream and normalises the sum.
    fn advance(&self, residual: &mut Residual, norm: &NormWeights) -> Result<Array> {
        match residual.delta.take() {
            None => self.norm(&residual.hidden, norm),
            Some(delta) => {
                let (sum, normed) = self.add_norm(&residual.hidden, &delta, norm)?;
                residual.hidden = sum;
                Ok(normed)
            }
        }
    }

    /// Normed and rotated queries, keys and plain values of a layer: `[tokens, heads, head_dim]` each.
    fn attention_inputs(
        &self,
        residual: &mut Residual,
        layer: &LayerWeights,
        weights: &AttentionWeights,
        step: &StepInputs,
    ) -> Result<[Array; 3]> {
        attention_inputs(self, residual, (layer, weights), step)
    }

    /// Input gates, output gates and values of a short convolution: `[tokens, channels]` each.
    fn short_conv_inputs(
        &self,
        residual: &mut Residual,
        layer: &LayerWeights,
        weights: &ShortConvWeights,
    ) -> Result<[Array; 3]> {
        let x = self.advance(residual, &layer.mixer_norm)?;
        let (input, output) = (self.linear(&x, &weights.input_gate)?, self.linear(&x, &weights.output_gate)?);
        Ok([input, output, self.linear(&x, &weights.value)?])
    }

    /// The feed-forward block of a layer on the normed `x`, `[tokens, width]`.
    fn feed_forward(&self, x: &Array, layer: &LayerWeights) -> Result<Array> {
        let gate = self.linear(x, &layer.gate)?;
        let up = self.linear(x, &layer.up)?;
        let inner = self.gated(&gate, &up, layer.activation)?;
        self.linear(&inner, &layer.down)
    }

    /// What a layer does with the output of its mixer, `[tokens, heads, head_dim]` or `[tokens, channels]`: its projection
    /// and the feed-forward block, both to the residual stream.
    fn finish_layer(&self, residual: &mut Residual, mixed: &Array, layer: &LayerWeights) -> Result<()> {
        let mixed = mixed.reshape(&[-1, length(layer.mixer.width())])?;
        residual.delta = Some(self.linear(&mixed, layer.mixer.output())?);
        let x = self.advance(residual, &layer.feed_forward_norm)?;
        residual.delta = Some(self.feed_forward(&x, layer)?);
        Ok(())
    }
}

/// `Arithmetic::attention_inputs` made of the small operations, for an implementation that does it at once for
/// some layers only.
pub(crate) fn attention_inputs<A: Arithmetic + ?Sized>(
    arithmetic: &A,
    residual: &mut Residual,
    (layer, weights): (&LayerWeights, &AttentionWeights),
    step: &StepInputs,
) -> Result<[Array; 3]> {
    let x = arithmetic.advance(residual, &layer.mixer_norm)?;
    let shape = &weights.shape;
    let heads = |linear: &LinearWeights, heads: usize| {
        arithmetic.linear(&x, linear)?.reshape(&[-1, length(heads), length(shape.head_dim)])
    };
    let rotated = |x: Array, norm: Option<&NormWeights>| {
        let x = norm.map_or(Ok(x.clone()), |norm| arithmetic.norm(&x, norm))?;
        arithmetic.rope(&x, step, &weights.rope)
    };
    let query = rotated(heads(&weights.query, shape.heads)?, weights.query_norm.as_ref())?;
    let key = rotated(heads(&weights.key, shape.kv_heads)?, weights.key_norm.as_ref())?;
    Ok([query, key, heads(&weights.value, shape.kv_heads)?])
}

/// A length as MLX wants it. Lengths come from arrays MLX has already accepted.
pub(crate) fn length(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
