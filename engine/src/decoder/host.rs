//! Arithmetic on the CPU by our own kernels, in f32, over weights in the dtype and place they have.
//!
//! Each method is one host operation in the graph. What the kernels do is theirs to say; their slow
//! twin is `GraphArithmetic`.

use std::sync::Arc;

use mlxcel_kernels::{self as kernels, Affine, Floats, ShapeError, Weight};
use mlxcel_mlx_bridge::{Array, Dtype, HostInput, Result, host_op, host_op_single};

use super::arithmetic::{Arithmetic, length};
use super::description::Activation;
use super::inputs::StepInputs;
use super::weights::{LinearWeights, MatrixWeights, NormWeights, RopeWeights};

/// What a kernel closure returns.
type Outcome<T = ()> = std::result::Result<T, String>;

/// Arithmetic by the CPU kernels.
pub(crate) struct HostArithmetic;

impl Arithmetic for HostArithmetic {
    fn embed(&self, ids: &Array, table: &MatrixWeights) -> Result<Array> {
        let view = MatrixView::of(table);
        let shape = [ids.dim(0)?, length(view.inputs)];
        let mut inputs = vec![ids];
        inputs.extend(table.arrays());
        host_op_single("embed", &inputs, &shape, Dtype::Float32, move |inputs, output| {
            let Some((ids, weights)) = inputs.split_first() else { return Err(operands("ids and a table")) };
            let weight = view.weight(weights)?;
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

    fn add_norm(&self, x: &Array, delta: &Array, weights: &NormWeights) -> Result<(Array, Array)> {
        let epsilon = weights.epsilon;
        let output = (x.shape(), Dtype::Float32);
        let inputs = [x, delta, &weights.weight];
        let mut outputs = host_op("add_rms_norm", &inputs, &[output, output], move |inputs, outputs| {
            let [x, delta, weight] = inputs else { return Err(operands("x, a delta and a weight")) };
            let [sum, normed] = outputs else { return Err(operands("two outputs")) };
            let sum = sum.as_f32_mut()?;
            sum.copy_from_slice(x.as_f32()?);
            let (weight, normed) = (weight.as_f32()?, normed.as_f32_mut()?);
            let rows = sum.len() / weight.len().max(1);
            kernels::add_rms_norm(sum, delta.as_f32()?, rows, weight, epsilon, normed).map_err(text)
        })?;
        let normed = outputs.swap_remove(1);
        Ok((outputs.swap_remove(0), normed))
    }

    fn rope(&self, x: &Array, step: &StepInputs, rope: &RopeWeights) -> Result<Array> {
        let positions = Arc::clone(&step.positions);
        let rope = Arc::clone(&rope.rope);
        host_op_single("rope", &[x], x.shape(), Dtype::Float32, move |inputs, output| {
            let [x] = inputs else { return Err(operands("x")) };
            let &[_, heads, head_dim] = x.shape() else { return Err(operands("[tokens, heads, head_dim]")) };
            let how = kernels::Rope {
                inverse_frequencies: &rope.inverse_frequencies,
                dims: rope.dims,
                traditional: rope.traditional,
                magnitude: rope.magnitude,
            };
            let rotated = output.as_f32_mut()?;
            rotated.copy_from_slice(x.as_f32()?);
            kernels::rope(rotated, heads as usize, head_dim as usize, &positions, &how).map_err(text)
        })
    }

    fn gated(&self, gate: &Array, up: &Array, activation: Activation) -> Result<Array> {
        let Activation::Silu = activation;
        host_op_single("swiglu", &[gate, up], gate.shape(), Dtype::Float32, move |inputs, output| {
            let [gate, up] = inputs else { return Err(operands("gate and up")) };
            kernels::swiglu(gate.as_f32()?, up.as_f32()?, output.as_f32_mut()?).map_err(text)
        })
    }
}

fn product(x: &Array, matrix: &MatrixWeights, bias: Option<&Array>) -> Result<Array> {
    let view = MatrixView::of(matrix);
    let rows = x.dim(0)?;
    let mut inputs = vec![x];
    inputs.extend(matrix.arrays());
    inputs.extend(bias);
    let has_bias = bias.is_some();
    let shape = [rows, length(view.outputs)];
    host_op_single("linear", &inputs, &shape, Dtype::Float32, move |inputs, output| {
        let Some((x, rest)) = inputs.split_first() else { return Err(operands("x")) };
        let (weights, bias) = if has_bias { rest.split_at(rest.len() - 1) } else { (rest, &[][..]) };
        let bias = bias.first().map(HostInput::as_f32).transpose()?;
        let weight = view.weight(weights)?;
        let out = output.as_f32_mut()?;
        kernels::linear(x.as_f32()?, rows as usize, view.inputs, &weight, view.outputs, bias, out)
            .map_err(text)
    })
}

/// How to read a matrix from the inputs of a host operation.
#[derive(Clone, Copy)]
struct MatrixView {
    outputs: usize,
    inputs: usize,
    /// Bits and group size of an affine matrix.
    affine: Option<(u32, usize)>,
}

impl MatrixView {
    fn of(matrix: &MatrixWeights) -> Self {
        let size = |array: &Array, axis: usize| array.shape().get(axis).map_or(0, |&size| size as usize);
        match matrix {
            MatrixWeights::Dense(weight) => {
                Self { outputs: size(weight, 0), inputs: size(weight, 1), affine: None }
            }
            MatrixWeights::Affine(quantized) => {
                let group = quantized.layout.group_size as usize;
                Self {
                    outputs: size(&quantized.weight, 0),
                    inputs: size(&quantized.scales, 1) * group,
                    affine: Some((quantized.layout.bits as u32, group)),
                }
            }
        }
    }

    /// The matrix over `inputs`, in the order of `MatrixWeights::arrays`.
    fn weight<'a>(&self, inputs: &[HostInput<'a>]) -> Outcome<Weight<'a>> {
        match (self.affine, inputs) {
            (None, [weight]) => Ok(Weight::Dense(floats(weight)?)),
            (Some((bits, group)), [packed, scales, biases]) => Ok(Weight::Affine(Affine {
                packed: packed.as_u32()?,
                scales: floats(scales)?,
                biases: floats(biases)?,
                bits,
                group,
            })),
            _ => Err(operands("a matrix")),
        }
    }
}

fn floats<'a>(input: &HostInput<'a>) -> Outcome<Floats<'a>> {
    match input.dtype() {
        Dtype::Float32 => Ok(Floats::F32(input.as_slice()?)),
        Dtype::Float16 => Ok(Floats::F16(input.as_slice()?)),
        Dtype::Bfloat16 => Ok(Floats::Bf16(input.as_slice()?)),
        other => Err(format!("weights must be floats, got {other}")),
    }
}

fn text(error: ShapeError) -> String {
    error.to_string()
}

fn operands(expected: &str) -> String {
    format!("the operation takes {expected}")
}
