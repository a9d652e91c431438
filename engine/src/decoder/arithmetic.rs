//! The arithmetic a decoder needs, apart from attention.
//!
//! Two implementations: `HostArithmetic` runs our CPU kernels in f32, `GraphArithmetic` plain MLX
//! operations in the model's dtype on any device, and is the slow twin of the first.
//! The forward pass does not know which one it drives; `load` decides.

use mlxcel_mlx_bridge::{Array, Result};

use super::description::Activation;
use super::inputs::StepInputs;
use super::weights::{LinearWeights, MatrixWeights, NormWeights, RopeWeights};

/// Operations on the flat hidden state `[tokens, width]`.
pub(crate) trait Arithmetic {
    /// Rows of the embedding for `ids`, u32 `[tokens]`: `[tokens, hidden]`.
    fn embed(&self, ids: &Array, table: &MatrixWeights) -> Result<Array>;

    /// `x W^T (+ b)`: `[tokens, inputs]` to `[tokens, outputs]`.
    fn linear(&self, x: &Array, weights: &LinearWeights) -> Result<Array>;

    /// Logits `[tokens, vocabulary]` from a tied embedding or an output head.
    fn matrix(&self, x: &Array, weights: &MatrixWeights) -> Result<Array>;

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
}

/// A length as MLX wants it. Lengths come from arrays MLX has already accepted.
pub(crate) fn length(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
