//! Arithmetic on NVIDIA GPUs: our kernels over tiled weights, MLX's operations for the rest.
//!
//! Its slow twin is `GraphArithmetic`, to which it also leaves what no kernel of ours takes.

use std::rc::Rc;

use mlxcel_mlx_bridge::{Array, Result};

use super::library::Kernels;
use super::product::{self, Epilogue};
use super::{TiledMatrix, pointwise};
use crate::decoder::arithmetic::{self, Arithmetic, length};
use crate::decoder::graph::GraphArithmetic;
use crate::decoder::residual::Residual;
use crate::decoder::weights::{
    AttentionWeights, LayerWeights, LinearWeights, MatrixWeights, NormWeights, RopeWeights,
};
use crate::decoder::{Activation, StepInputs};

/// Arithmetic by the CUDA kernels.
pub(crate) struct CudaArithmetic {
    pub(crate) kernels: Rc<Kernels>,
    pub(crate) graph: GraphArithmetic,
}

impl Arithmetic for CudaArithmetic {
    fn embed(&self, ids: &Array, table: &MatrixWeights) -> Result<Array> {
        match table {
            MatrixWeights::Tiled(matrix) => matrix.take(&self.kernels, ids),
            other => self.graph.embed(ids, other),
        }
    }

    fn linear(&self, x: &Array, weights: &LinearWeights) -> Result<Array> {
        let product = self.matrix(x, &weights.matrix)?;
        weights.bias.as_ref().map_or(Ok(product.clone()), |bias| product.add(bias))
    }

    fn matrix(&self, x: &Array, weights: &MatrixWeights) -> Result<Array> {
        match weights {
            MatrixWeights::Tiled(matrix) => product::multiply(&self.kernels, x, &[matrix], Epilogue::Plain),
            // MLX's quantised product fails or does not end for some layouts, its plain one does not. All of mxfp4 comes
            // here: no kernel of ours reads it. What MLX makes of it is bf16, which holds each value exactly.
            MatrixWeights::Quantized(matrix) => {
                x.matmul(&matrix.dequantize()?.astype(x.dtype())?.transpose(&[1, 0])?)
            }
            MatrixWeights::Dense(_) => self.graph.matrix(x, weights),
        }
    }

    fn norm(&self, x: &Array, weights: &NormWeights) -> Result<Array> {
        self.graph.norm(x, weights)
    }

    fn add_norm(&self, x: &Array, delta: &Array, weights: &NormWeights) -> Result<(Array, Array)> {
        pointwise::add_norm(&self.kernels, x, delta, weights)
            .unwrap_or_else(|| self.graph.add_norm(x, delta, weights))
    }

    fn rope(&self, x: &Array, step: &StepInputs, rope: &RopeWeights) -> Result<Array> {
        self.graph.rope(x, step, rope)
    }

    fn gated(&self, gate: &Array, up: &Array, activation: Activation) -> Result<Array> {
        let Activation::Silu = activation;
        pointwise::silu_multiply(&self.kernels, gate, up)
            .unwrap_or_else(|| self.graph.gated(gate, up, activation))
    }

    fn attention_inputs(
        &self,
        residual: &mut Residual,
        layer: &LayerWeights,
        weights: &AttentionWeights,
        step: &StepInputs,
    ) -> Result<[Array; 3]> {
        let joined = tiled([&weights.query, &weights.key, &weights.value]);
        match joined.filter(|_| pointwise::can_split(weights, residual.hidden.dtype())) {
            Some(matrices) => {
                let rows = self.normed(residual, &layer.mixer_norm, &matrices, Epilogue::Plain)?;
                pointwise::rope_split(&self.kernels, &rows, weights, step)
            }
            None => arithmetic::attention_inputs(self, residual, (layer, weights), step),
        }
    }

    fn finish_layer(&self, residual: &mut Residual, mixed: &Array, layer: &LayerWeights) -> Result<()> {
        residual.delta = Some(match tiled([layer.mixer.output()]) {
            Some(matrices) => product::multiply(&self.kernels, mixed, &matrices, Epilogue::Plain)?,
            None => {
                let mixed = mixed.reshape(&[-1, length(layer.mixer.width())])?;
                self.linear(&mixed, layer.mixer.output())?
            }
        });
        let Activation::Silu = layer.activation;
        residual.delta = Some(match tiled([&layer.gate, &layer.up]) {
            Some(matrices) => {
                let inner = self.normed(residual, &layer.feed_forward_norm, &matrices, Epilogue::Gated)?;
                self.linear(&inner, &layer.down)?
            }
            None => {
                let x = self.advance(residual, &layer.feed_forward_norm)?;
                self.feed_forward(&x, layer)?
            }
        });
        Ok(())
    }

    fn feed_forward(&self, x: &Array, layer: &LayerWeights) -> Result<Array> {
        let Activation::Silu = layer.activation;
        let inner = match tiled([&layer.gate, &layer.up]) {
            Some(matrices) => product::multiply(&self.kernels, x, &matrices, Epilogue::Gated)?,
            None => {
                self.gated(&self.linear(x, &layer.gate)?, &self.linear(x, &layer.up)?, layer.activation)?
            }
        };
        self.linear(&inner, &layer.down)
    }
}

impl CudaArithmetic {
    /// The residual stream, with what is pending, under a norm and times matrices.
    fn normed(
        &self,
        residual: &mut Residual,
        norm: &NormWeights,
        matrices: &[&TiledMatrix],
        epilogue: Epilogue,
    ) -> Result<Array> {
        if let Some(made) = product::multiply_normed(&self.kernels, residual, norm, matrices, epilogue)? {
            return Ok(made);
        }
        let x = self.advance(residual, norm)?;
        product::multiply(&self.kernels, &x, matrices, epilogue)
    }
}

/// The matrices of linear layers that one launch can do.
fn tiled<const N: usize>(layers: [&LinearWeights; N]) -> Option<[&TiledMatrix; N]> {
    let matrices: Option<Vec<&TiledMatrix>> = layers
        .iter()
        .map(|layer| match &layer.matrix {
            MatrixWeights::Tiled(matrix) if layer.bias.is_none() => Some(matrix),
            _ => None,
        })
        .collect();
    matrices
        .filter(|matrices| product::alike(matrices))
        .and_then(|matrices| <[&TiledMatrix; N]>::try_from(matrices).ok())
}
