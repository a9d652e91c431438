//! Attention of one sequence over keys and values that lie in one piece: MLX's fused attention, or its parts where
//! scores are capped.

use mlxcel_mlx_bridge::fast::{Mask, attention_with_sinks, scaled_dot_product_attention};
use mlxcel_mlx_bridge::{Array, Dtype, Result};

use super::AttentionRule;
use crate::decoder::length;

/// Attention of one sequence: queries `[rows, heads, head_dim]` over keys and values `[tokens, kv_heads, head_dim]`.
pub(super) fn attend(
    query: &Array,
    [keys, values]: [&Array; 2],
    start: usize,
    rule: AttentionRule<'_>,
) -> Result<Array> {
    // [tokens, heads, head_dim] to [1, heads, tokens, head_dim].
    let head_major = |x: &Array| x.transpose(&[1, 0, 2])?.expand_dims(&[0]);
    let count = query.shape()[0] as usize;
    let [query, keys, values] = [head_major(query)?, head_major(keys)?, head_major(values)?];
    let mask = mask(rule.shape.window, start, count, keys.dtype())?;
    let out = match (rule.shape.soft_cap, rule.sinks) {
        (Some(cap), _) => capped([&query, &keys, &values], (start, count), cap, rule)?,
        (None, Some(sinks)) => {
            let sinks = sinks.astype(query.dtype())?;
            attention_with_sinks([&query, &keys, &values], rule.shape.scale, mask.as_ref(), &sinks)?
        }
        (None, None) => {
            scaled_dot_product_attention(&query, &keys, &values, rule.shape.scale, mask.as_ref())?
        }
    };
    out.transpose(&[0, 2, 1, 3])?.squeeze(&[0])
}

/// Attention with capped scores, which MLX's kernel does not have, in parts.
fn capped(
    [query, keys, values]: [&Array; 3],
    (start, count): (usize, usize),
    cap: f32,
    rule: AttentionRule<'_>,
) -> Result<Array> {
    let (shape, dtype) = (rule.shape, query.dtype());
    let total = start + count;
    let grouped = [shape.kv_heads, shape.heads / shape.kv_heads, count, shape.head_dim].map(length);
    let query = query.reshape(&grouped)?;
    let side = |x: &Array| x.squeeze(&[0])?.expand_dims(&[1]);
    let scores = query.matmul(&side(keys)?.transpose(&[0, 1, 3, 2])?)?.astype(Dtype::Float32)?;
    let scores = scores.multiply_scalar(shape.scale / cap)?.tanh()?.multiply_scalar(cap)?;
    let seen = additive(shape.window, start, count)?;
    let mut scores = scores.add(&seen)?;
    if let Some(sinks) = rule.sinks {
        let column = [grouped[0], grouped[1], 1, 1];
        let sinks = sinks.astype(Dtype::Float32)?.reshape(&column)?;
        let sinks = sinks.broadcast_to(&[grouped[0], grouped[1], grouped[2], 1])?;
        scores = Array::concatenate(&[&scores, &sinks], 3)?;
    }
    let weights = scores.softmax(&[-1], true)?;
    let weights = weights.slice(&[0; 4], &[grouped[0], grouped[1], grouped[2], length(total)])?;
    let out = weights.astype(dtype)?.matmul(&side(values)?)?;
    out.reshape(&[1, length(shape.heads), length(count), length(shape.head_dim)])
}

/// An owned attention mask.
enum OwnedMask {
    None,
    Causal,
    Array(Array),
}

impl OwnedMask {
    fn as_ref(&self) -> Mask<'_> {
        match self {
            Self::None => Mask::None,
            Self::Causal => Mask::Causal,
            Self::Array(mask) => Mask::Array(mask),
        }
    }
}

/// What the queries at `start..start + count` may see of the keys `0..start + count`.
fn mask(window: Option<usize>, start: usize, count: usize, dtype: Dtype) -> Result<OwnedMask> {
    match window {
        Some(window) if window < start + count => {
            Ok(OwnedMask::Array(additive(Some(window), start, count)?.astype(dtype)?))
        }
        _ if count == 1 => Ok(OwnedMask::None),
        _ => Ok(OwnedMask::Causal),
    }
}

/// The same as numbers to add to scores, f32 `[count, start + count]`.
fn additive(window: Option<usize>, start: usize, count: usize) -> Result<Array> {
    let total = start + count;
    let row = |query: usize| {
        (0..total).map(move |key| {
            let seen = key <= query && window.is_none_or(|window| key + window > query);
            if seen { 0.0 } else { f32::NEG_INFINITY }
        })
    };
    let values: Vec<f32> = (start..total).flat_map(row).collect();
    Array::from_slice(&values, &[length(count), length(total)])
}
