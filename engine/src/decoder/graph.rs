//! Arithmetic in plain MLX operations, in the model's own dtype, on any device.
//!
//! What runs on Metal, and the slow twin of the CPU and CUDA kernels.

use mlxcel_mlx_bridge::fast::{self, RopeOffset, RopeOptions};
use mlxcel_mlx_bridge::{Array, Dtype, Error, ErrorKind, Quantized, Result};

use super::arithmetic::{Arithmetic, length};
use super::description::Activation;
use super::inputs::StepInputs;
use super::weights::{LinearWeights, MatrixWeights, NormWeights, RopeWeights};

/// Arithmetic on MLX graphs.
pub(crate) struct GraphArithmetic {
    /// The dtype of the hidden state.
    pub(crate) dtype: Dtype,
}

impl Arithmetic for GraphArithmetic {
    fn embed(&self, ids: &Array, table: &MatrixWeights) -> Result<Array> {
        let rows = match table {
            MatrixWeights::Dense(weight) => weight.take(ids, 0)?,
            MatrixWeights::Quantized(matrix) => {
                let gather = |part: &Array| part.take(ids, 0);
                let rows = Quantized {
                    weight: gather(&matrix.weight)?,
                    scales: gather(&matrix.scales)?,
                    biases: matrix.biases.as_ref().map(gather).transpose()?,
                    layout: matrix.layout,
                };
                rows.dequantize()?
            }
            MatrixWeights::Tiled(_) => return Err(tiled("embed")),
        };
        rows.astype(self.dtype)
    }

    fn linear(&self, x: &Array, weights: &LinearWeights) -> Result<Array> {
        let product = self.matrix(x, &weights.matrix)?;
        match &weights.bias {
            Some(bias) => product.add(bias),
            None => Ok(product),
        }
    }

    fn matrix(&self, x: &Array, weights: &MatrixWeights) -> Result<Array> {
        match weights {
            MatrixWeights::Dense(weight) => x.matmul(&weight.transpose(&[1, 0])?),
            MatrixWeights::Quantized(matrix) => matrix.matmul(x, true),
            MatrixWeights::Tiled(_) => Err(tiled("matrix")),
        }
    }

    fn norm(&self, x: &Array, weights: &NormWeights) -> Result<Array> {
        fast::rms_norm(x, Some(&weights.weight), weights.epsilon)
    }

    fn rope(&self, x: &Array, step: &StepInputs, rope: &RopeWeights) -> Result<Array> {
        let (tokens, heads, width) = (x.dim(0)?, x.dim(1)?, x.dim(2)?);
        let x = magnified(x, rope)?;
        // Every token is a batch of one position, so that each has its own offset.
        let x = x.reshape(&[tokens, heads, 1, width])?;
        let options = RopeOptions {
            dims: length(rope.rope.dims),
            traditional: rope.rope.traditional,
            base: None,
            scale: 1.0,
            offset: RopeOffset::Positions(&step.position_array),
            freqs: Some(&rope.periods),
        };
        fast::rope(&x, options)?.reshape(&[tokens, heads, width])
    }

    fn gated(&self, gate: &Array, up: &Array, activation: Activation) -> Result<Array> {
        match activation {
            Activation::Silu => gate.multiply(&gate.sigmoid()?)?.multiply(up),
        }
    }
}

/// Tiles are made for the CUDA arithmetic alone, which reads them itself.
fn tiled(op: &'static str) -> Error {
    let message = "the weights are laid out for CUDA kernels".to_owned();
    Error { op, kind: ErrorKind::Argument, operands: String::new(), message }
}

/// YaRN scales the rotated dimensions before rotating them.
fn magnified(x: &Array, rope: &RopeWeights) -> Result<Array> {
    if rope.rope.magnitude == 1.0 {
        return Ok(x.clone());
    }
    let (tokens, heads, width) = (x.dim(0)?, x.dim(1)?, x.dim(2)?);
    let dims = length(rope.rope.dims);
    let rotated = x.slice(&[0, 0, 0], &[tokens, heads, dims])?.multiply_scalar(rope.rope.magnitude)?;
    if dims == width {
        return Ok(rotated);
    }
    let rest = x.slice(&[0, 0, dims], &[tokens, heads, width])?;
    Array::concatenate(&[&rotated, &rest], 2)
}
