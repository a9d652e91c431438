//! Arithmetic on the CPU by our own kernels, in f32, over weights in the dtype and place they have.
//!
//! Each method is one host operation in the graph; those of whole blocks are in `blocks`, as a node of the graph
//! costs what a small kernel does. What the kernels do is theirs to say; their slow twin is `GraphArithmetic`.

mod blocks;
mod operands;

use std::sync::Arc;

use mlxcel_kernels::{self as kernels, ShapeError};
use mlxcel_mlx_bridge::{Array, Dtype, Error, ErrorKind, Result, host_op_single};

use super::arithmetic::{Arithmetic, length};
use super::description::Activation;
use super::inputs::StepInputs;
use super::residual::Residual;
use super::weights::{AttentionWeights, LayerWeights, LinearWeights, MatrixWeights, NormWeights};
use super::weights::{RopeWeights, ShortConvWeights};
use crate::ranks::SumWithin;
use operands::{LinearView, MatrixView, floats_of, operands, rotation};

/// What a kernel closure returns.
type Outcome<T = ()> = std::result::Result<T, String>;

/// Arithmetic by the CPU kernels.
#[derive(Default)]
pub(crate) struct HostArithmetic {
    /// What attention and feed-forward leave is summed by this over the ranks that share a layer.
    pub(crate) sum: Option<SumWithin>,
}

impl Arithmetic for HostArithmetic {
    fn embed(&self, ids: &Array, table: &MatrixWeights) -> Result<Array> {
        let view = MatrixView::of(table);
        let shape = [ids.dim(0)?, length(view.inputs)];
        let mut inputs = vec![ids];
        inputs.extend(table.arrays());
        host_op_single("embed", &inputs, &shape, Dtype::Float32, move |inputs, output| {
            let Some((ids, weights)) = inputs.split_first() else { return Err(operands("ids and a table")) };
            let weight = view.read(&mut weights.iter())?;
            kernels::embed(ids.as_u32()?, &weight, view.outputs, view.inputs, output.as_f32_mut()?)
                .map_err(text)
        })
    }

    fn linear(&self, x: &Array, weights: &LinearWeights) -> Result<Array> {
        product(x, &weights.matrix, weights.bias.as_ref())
    }

    fn matrix(&self, x: &Array, weights: &MatrixWeights) -> Result<Array> {
        product(x, weights, None)
    }

    fn norm(&self, x: &Array, weights: &NormWeights) -> Result<Array> {
        let epsilon = weights.epsilon;
        host_op_single("rms_norm", &[x, &weights.weight], x.shape(), Dtype::Float32, move |inputs, output| {
            let [x, weight] = inputs else { return Err(operands("x and its weight")) };
            let (x, weight) = (x.as_f32()?, weight.as_f32()?);
            kernels::rms_norm(x, x.len() / weight.len().max(1), weight, epsilon, output.as_f32_mut()?)
                .map_err(text)
        })
    }

    fn rope(&self, x: &Array, step: &StepInputs, rope: &RopeWeights) -> Result<Array> {
        let positions = Arc::clone(&step.positions);
        let rope = Arc::clone(&rope.rope);
        host_op_single("rope", &[x], x.shape(), Dtype::Float32, move |inputs, output| {
            let [x] = inputs else { return Err(operands("x")) };
            let &[_, heads, head_dim] = x.shape() else { return Err(operands("[tokens, heads, head_dim]")) };
            let rotated = output.as_f32_mut()?;
            rotated.copy_from_slice(x.as_f32()?);
            kernels::rope(rotated, heads as usize, head_dim as usize, &positions, &rotation(&rope))
                .map_err(text)
        })
    }

    fn gated(&self, gate: &Array, up: &Array, activation: Activation) -> Result<Array> {
        let Activation::Silu = activation;
        host_op_single("swiglu", &[gate, up], gate.shape(), Dtype::Float32, move |inputs, output| {
            let [gate, up] = inputs else { return Err(operands("gate and up")) };
            kernels::swiglu(gate.as_f32()?, up.as_f32()?, output.as_f32_mut()?).map_err(text)
        })
    }

    fn attention_inputs(
        &self,
        residual: &mut Residual,
        layer: &LayerWeights,
        weights: &AttentionWeights,
        step: &StepInputs,
    ) -> Result<[Array; 3]> {
        blocks::attention_inputs(&residual.added()?, (layer, weights), step)
    }

    fn short_conv_inputs(
        &self,
        residual: &mut Residual,
        layer: &LayerWeights,
        weights: &ShortConvWeights,
    ) -> Result<[Array; 3]> {
        blocks::short_conv_inputs(&residual.added()?, layer, weights)
    }

    fn finish_layer(&self, residual: &mut Residual, mixed: &Array, layer: &LayerWeights) -> Result<()> {
        *residual = Residual::new(blocks::finish_layer(&residual.added()?, mixed, layer, self.sum.clone())?);
        Ok(())
    }
}

fn product(x: &Array, matrix: &MatrixWeights, bias: Option<&Array>) -> Result<Array> {
    let view = MatrixView::of(matrix);
    let rows = x.dim(0)?;
    let mut inputs = vec![x];
    inputs.extend(matrix.arrays());
    inputs.extend(bias);
    let view = LinearView { matrix: view, has_bias: bias.is_some() };
    let shape = [rows, length(view.matrix.outputs)];
    host_op_single("linear", &inputs, &shape, Dtype::Float32, move |inputs, output| {
        let mut inputs = inputs.iter();
        let x = floats_of(&mut inputs)?;
        let linear = view.read(&mut inputs)?;
        linear.multiply(x, rows as usize, output.as_f32_mut()?)
    })
}

fn text(error: ShapeError) -> String {
    error.to_string()
}

/// The refusal of a host operation with a number of outputs it was not asked for.
fn miscounted(op: &'static str, count: usize) -> Error {
    let message = format!("the operation returned {count} arrays");
    Error { op, kind: ErrorKind::Argument, operands: String::new(), message }
}
