//! Blocks of a layer as one host operation each.
//!
//! The order of kernels is that of the small operations `Arithmetic` makes the blocks of. What lies between two
//! kernels stays in this thread's scratch.

use std::sync::Arc;

use mlxcel_kernels::{self as kernels, Scratch};
use mlxcel_mlx_bridge::{Array, Dtype, HostInput, HostOutput, Result, host_op, host_op_single};

use super::operands::{LinearOperand, LinearView, floats_of, operands, rotation};
use super::{Outcome, text};
use crate::decoder::arithmetic::length;
use crate::decoder::description::Activation;
use crate::decoder::inputs::StepInputs;
use crate::decoder::weights::{AttentionWeights, LayerWeights, NormWeights, ShortConvWeights};
use crate::ranks::SumWithin;

/// Norm, three projections, the norms of heads and rotation: `[tokens, width]` to queries, keys and values.
pub(super) fn attention_inputs(
    hidden: &Array,
    (layer, weights): (&LayerWeights, &AttentionWeights),
    step: &StepInputs,
) -> Result<[Array; 3]> {
    let shape = &weights.shape;
    let linears = [&weights.query, &weights.key, &weights.value];
    let views = linears.map(LinearView::of);
    let norm_of_heads = [&weights.query_norm, &weights.key_norm].map(Option::as_ref);
    let mut inputs = vec![hidden, &layer.mixer_norm.weight];
    inputs.extend(linears.into_iter().flat_map(|linear| linear.arrays()));
    inputs.extend(norm_of_heads.into_iter().flatten().map(|norm| &norm.weight));
    let epsilon = layer.mixer_norm.epsilon;
    let head_epsilons = norm_of_heads.map(|norm| norm.map(|norm: &NormWeights| norm.epsilon));
    let (positions, rope) = (Arc::clone(&step.positions), Arc::clone(&weights.rope.rope));
    let (rows, heads, head_dim) = (step.len, [shape.heads, shape.kv_heads, shape.kv_heads], shape.head_dim);
    let shapes = heads.map(|heads| [length(rows), length(heads), length(head_dim)]);
    let outputs = shapes.each_ref().map(|shape| (&shape[..], Dtype::Float32));
    let kernel = move |inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]| {
        let mut inputs = inputs.iter();
        let (hidden, norm) = (floats_of(&mut inputs)?, floats_of(&mut inputs)?);
        let mut normed = Scratch::new(hidden.len());
        kernels::rms_norm(hidden, rows, norm, epsilon, &mut normed).map_err(text)?;
        let [query, key, value] = outputs else { return Err(operands("three outputs")) };
        let mut sides = [query.as_f32_mut()?, key.as_f32_mut()?, value.as_f32_mut()?];
        let mut projections = Vec::with_capacity(3);
        for (view, side) in views.iter().zip(&mut sides) {
            projections.push(view.read(&mut inputs)?.to(side));
        }
        kernels::linears(&normed, rows, norm.len(), &mut projections).map_err(text)?;
        for (at, epsilon) in head_epsilons.into_iter().enumerate() {
            if let Some(epsilon) = epsilon {
                norm_heads(sides[at], rows * heads[at], floats_of(&mut inputs)?, epsilon)?;
            }
            kernels::rope(sides[at], heads[at], head_dim, &positions, &rotation(&rope)).map_err(text)?;
        }
        Ok(())
    };
    let outputs = host_op("attention_inputs", &inputs, &outputs, kernel)?;
    let count = outputs.len();
    <[Array; 3]>::try_from(outputs).map_err(|_| super::miscounted("attention_inputs", count))
}

/// Norm and three projections: `[tokens, width]` to the gates and values of a short convolution.
pub(super) fn short_conv_inputs(
    hidden: &Array,
    layer: &LayerWeights,
    weights: &ShortConvWeights,
) -> Result<[Array; 3]> {
    let linears = [&weights.input_gate, &weights.output_gate, &weights.value];
    let views = linears.map(LinearView::of);
    let mut inputs = vec![hidden, &layer.mixer_norm.weight];
    inputs.extend(linears.into_iter().flat_map(|linear| linear.arrays()));
    let (epsilon, rows) = (layer.mixer_norm.epsilon, hidden.dim(0)?);
    let shape = [rows, length(weights.shape.channels)];
    let outputs = [(&shape[..], Dtype::Float32); 3];
    let kernel = move |inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]| {
        let mut inputs = inputs.iter();
        let (hidden, norm) = (floats_of(&mut inputs)?, floats_of(&mut inputs)?);
        let (rows, mut normed) = (rows as usize, Scratch::new(hidden.len()));
        kernels::rms_norm(hidden, rows, norm, epsilon, &mut normed).map_err(text)?;
        let mut projections = Vec::with_capacity(3);
        for (view, output) in views.iter().zip(outputs) {
            projections.push(view.read(&mut inputs)?.to(output.as_f32_mut()?));
        }
        kernels::linears(&normed, rows, norm.len(), &mut projections).map_err(text)
    };
    let outputs = host_op("short_conv_inputs", &inputs, &outputs, kernel)?;
    let count = outputs.len();
    <[Array; 3]>::try_from(outputs).map_err(|_| super::miscounted("short_conv_inputs", count))
}

/// Normalises heads, `[rows, head_dim]`, where they lie.
fn norm_heads(heads: &mut [f32], rows: usize, norm: &[f32], epsilon: f32) -> Outcome {
    let mut plain = Scratch::new(heads.len());
    plain.copy_from_slice(heads);
    kernels::rms_norm(&plain, rows, norm, epsilon, heads).map_err(text)
}

/// The output projection of the mixer and the feed-forward block, with both residual additions:
/// the hidden state `[tokens, width]` after the layer. What is added is summed over ranks first, where there are several.
pub(super) fn finish_layer(
    hidden: &Array,
    mixed: &Array,
    layer: &LayerWeights,
    sum: Option<SumWithin>,
) -> Result<Array> {
    let Activation::Silu = layer.activation;
    let linears = [layer.mixer.output(), &layer.gate, &layer.up, &layer.down];
    let views = linears.map(LinearView::of);
    let mut inputs = vec![hidden, mixed, &layer.feed_forward_norm.weight];
    inputs.extend(linears.into_iter().flat_map(|linear| linear.arrays()));
    let epsilon = layer.feed_forward_norm.epsilon;
    host_op_single("finish_layer", &inputs, hidden.shape(), Dtype::Float32, move |inputs, output| {
        let mut inputs = inputs.iter();
        let (hidden, mixed) = (floats_of(&mut inputs)?, floats_of(&mut inputs)?);
        let norm = Norm { weight: floats_of(&mut inputs)?, epsilon };
        let mut linears = Vec::with_capacity(4);
        for view in &views {
            linears.push(view.read(&mut inputs)?);
        }
        let out = output.as_f32_mut()?;
        out.copy_from_slice(hidden);
        let mut delta = Scratch::new(out.len());
        let rows = out.len() / norm.weight.len().max(1);
        let sum = |delta: &mut [f32]| sum.as_ref().map_or(Ok(()), |sum| sum(delta));
        linears[0].multiply(mixed, rows, &mut delta)?;
        sum(&mut delta)?;
        feed_forward(out, &mut delta, &norm, &linears[1..])?;
        sum(&mut delta)?;
        kernels::add(out, &delta).map_err(text)
    })
}

struct Norm<'a> {
    weight: &'a [f32],
    epsilon: f32,
}

/// Adds `delta` to `out`, `[tokens, width]`, and leaves what the block makes of the sum in `delta`.
/// `linears` are gate, up and down.
fn feed_forward(
    out: &mut [f32],
    delta: &mut [f32],
    norm: &Norm<'_>,
    linears: &[LinearOperand<'_>],
) -> Outcome {
    let [gate, up, down] = linears else { return Err(operands("gate, up and down")) };
    let width = norm.weight.len();
    let rows = out.len() / width.max(1);
    let mut normed = Scratch::new(out.len());
    kernels::add_rms_norm(out, delta, rows, norm.weight, norm.epsilon, &mut normed).map_err(text)?;
    let [mut gates, mut ups, mut inner] = [0; 3].map(|_| Scratch::new(rows * gate.outputs));
    kernels::linears(&normed, rows, width, &mut [gate.to(&mut gates), up.to(&mut ups)]).map_err(text)?;
    kernels::swiglu(&gates, &ups, &mut inner).map_err(text)?;
    down.multiply(&inner, rows, delta)
}
