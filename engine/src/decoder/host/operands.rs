//! Weights as host operations find them again among their inputs.
//!
//! A view says how many arrays a matrix or a layer takes and how to read them; the arrays themselves are only there
//! while the operation runs. Knows no arithmetic: `blocks` and its parent compute.

use mlxcel_kernels::{self as kernels, Affine, Floats, Mxfp4, Projection, Weight};
use mlxcel_mlx_bridge::{Array, Dtype, HostInput, QuantizedLayout, QuantizedMode};

use super::{Outcome, text};
use crate::decoder::Rope;
use crate::decoder::weights::{LinearWeights, MatrixWeights};

/// What is left of an operation's inputs.
pub(super) type Inputs<'i, 'a> = std::slice::Iter<'i, HostInput<'a>>;

/// How to read a matrix from the inputs of a host operation.
#[derive(Clone, Copy)]
pub(super) struct MatrixView {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    storage: Storage,
}

/// How its values are stored.
#[derive(Clone, Copy)]
enum Storage {
    Floats,
    /// With a number of bits and a group size.
    Affine(u32, usize),
    Mxfp4,
}

impl MatrixView {
    pub(super) fn of(matrix: &MatrixWeights) -> Self {
        let size = |array: &Array, axis: usize| array.shape().get(axis).map_or(0, |&size| size as usize);
        match matrix {
            MatrixWeights::Dense(weight) => {
                Self { outputs: size(weight, 0), inputs: size(weight, 1), storage: Storage::Floats }
            }
            // Never made for the CPU; `read` refuses its u32 words as floats.
            MatrixWeights::Tiled(_) => Self { outputs: 0, inputs: 0, storage: Storage::Floats },
            MatrixWeights::Quantized(quantized) => {
                let QuantizedLayout { bits, group_size, mode } = quantized.layout;
                let group = group_size as usize;
                Self {
                    outputs: size(&quantized.weight, 0),
                    inputs: size(&quantized.scales, 1) * group,
                    storage: match mode {
                        QuantizedMode::Mxfp4 => Storage::Mxfp4,
                        _ => Storage::Affine(bits as u32, group),
                    },
                }
            }
        }
    }

    /// The matrix whose arrays are next among `inputs`, in the order of `MatrixWeights::arrays`.
    pub(super) fn read<'a>(&self, inputs: &mut Inputs<'_, 'a>) -> Outcome<Weight<'a>> {
        match self.storage {
            Storage::Floats => Ok(Weight::Dense(floats(next(inputs)?)?)),
            Storage::Mxfp4 => Ok(Weight::Mxfp4(Mxfp4 {
                packed: next(inputs)?.as_u32()?,
                scales: next(inputs)?.as_slice()?,
            })),
            Storage::Affine(bits, group) => Ok(Weight::Affine(Affine {
                packed: next(inputs)?.as_u32()?,
                scales: floats(next(inputs)?)?,
                biases: floats(next(inputs)?)?,
                bits,
                group,
            })),
        }
    }
}

/// How to read a linear layer.
#[derive(Clone, Copy)]
pub(super) struct LinearView {
    pub(super) matrix: MatrixView,
    pub(super) has_bias: bool,
}

impl LinearView {
    pub(super) fn of(linear: &LinearWeights) -> Self {
        Self { matrix: MatrixView::of(&linear.matrix), has_bias: linear.bias.is_some() }
    }

    /// The layer whose arrays are next among `inputs`, in the order of `LinearWeights::arrays`.
    pub(super) fn read<'a>(&self, inputs: &mut Inputs<'_, 'a>) -> Outcome<LinearOperand<'a>> {
        let weight = self.matrix.read(inputs)?;
        let bias = if self.has_bias { Some(floats_of(inputs)?) } else { None };
        Ok(LinearOperand { weight, bias, inputs: self.matrix.inputs, outputs: self.matrix.outputs })
    }
}

/// A linear layer during one call.
pub(super) struct LinearOperand<'a> {
    weight: Weight<'a>,
    bias: Option<&'a [f32]>,
    inputs: usize,
    pub(super) outputs: usize,
}

impl<'a> LinearOperand<'a> {
    /// Its product as one of several, to `out`, `[rows, outputs]`.
    pub(super) fn to<'o>(&self, out: &'o mut [f32]) -> Projection<'o>
    where
        'a: 'o,
    {
        Projection { weight: self.weight, outputs: self.outputs, bias: self.bias, out }
    }

    /// `out = x W^T + b`: `x` is `[rows, inputs]`, `out` `[rows, outputs]`.
    pub(super) fn multiply(&self, x: &[f32], rows: usize, out: &mut [f32]) -> Outcome {
        kernels::linears(x, rows, self.inputs, &mut [self.to(out)]).map_err(text)
    }
}

fn next<'i, 'a>(inputs: &mut Inputs<'i, 'a>) -> Outcome<&'i HostInput<'a>> {
    inputs.next().ok_or_else(|| operands("more arrays"))
}

/// The next of the inputs, which is of f32.
pub(super) fn floats_of<'a>(inputs: &mut Inputs<'_, 'a>) -> Outcome<&'a [f32]> {
    next(inputs)?.as_f32()
}

/// A rotation as the kernels take it.
pub(super) fn rotation(rope: &Rope) -> kernels::Rope<'_> {
    kernels::Rope {
        inverse_frequencies: &rope.inverse_frequencies,
        dims: rope.dims,
        traditional: rope.traditional,
        magnitude: rope.magnitude,
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

/// The refusal of operands that are not `expected`.
pub(super) fn operands(expected: &str) -> String {
    format!("the operation takes {expected}")
}
