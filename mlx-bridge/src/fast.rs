//! MLX's fused transformer functions.

use crate::array::{Array, optional, returned};
use crate::error::Result;
use crate::ffi::mlx as ffi;

/// `x / rms(x) * weight` over the last axis, in f32 inside.
///
/// # Errors
/// When `weight` is not a vector as long as the last axis.
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array> {
    // SAFETY: `weight` is null or borrowed for the call.
    returned("rms_norm", &[x], unsafe { ffi::rms_norm(x.raw(), optional(weight), eps) })
}

/// `(x - mean) / std * weight + bias` over the last axis.
///
/// # Errors
/// When `weight` or `bias` is not a vector as long as the last axis.
pub fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Result<Array> {
    // SAFETY: `weight` and `bias` are null or borrowed for the call.
    returned("layer_norm", &[x], unsafe { ffi::layer_norm(x.raw(), optional(weight), optional(bias), eps) })
}

/// How to rotate: exactly one of `base` and `freqs` is given.
#[derive(Debug, Clone, Copy)]
pub struct RopeOptions<'a> {
    /// Leading features to rotate, even.
    pub dims: i32,
    /// Rotate neighbours (2i, 2i+1) rather than halves (i, i + dims/2).
    pub traditional: bool,
    /// Base of the wavelengths, such as 10000.
    pub base: Option<f32>,
    /// Factor on positions.
    pub scale: f32,
    /// Position of the first token.
    pub offset: RopeOffset<'a>,
    /// Wavelengths instead of a base: f32 `[dims / 2]`, the reciprocals of the angular frequencies.
    pub freqs: Option<&'a Array>,
}

/// Position of the first token.
#[derive(Debug, Clone, Copy)]
pub enum RopeOffset<'a> {
    /// The same for all sequences.
    Position(i32),
    /// One for each sequence: i32, a scalar or `[batch]`.
    Positions(&'a Array),
}

/// Rotary position embedding of `x`, `[batch, heads, tokens, features]` (the last two axes are
/// tokens and features).
///
/// # Errors
/// When the dimensions do not fit, or not exactly one of `base` and `freqs` is given.
pub fn rope(x: &Array, options: RopeOptions<'_>) -> Result<Array> {
    let numbers = ffi::Rope {
        dims: options.dims,
        traditional: options.traditional,
        has_base: options.base.is_some(),
        base: options.base.unwrap_or_default(),
        scale: options.scale,
    };
    let freqs = optional(options.freqs);
    match options.offset {
        RopeOffset::Position(at) => {
            // SAFETY: `freqs` is null or borrowed for the call.
            returned("rope", &[x], unsafe { ffi::rope(x.raw(), &numbers, at, freqs) })
        }
        RopeOffset::Positions(at) => {
            // SAFETY: as above.
            returned("rope", &[x, at], unsafe { ffi::rope_at(x.raw(), &numbers, at.raw(), freqs) })
        }
    }
}

/// Which keys a query sees.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// All.
    None,
    /// Those at or before its own position, the last query being at the last key.
    Causal,
    /// Boolean (true is seen) or additive, broadcast to `[batch, heads, queries, keys]`.
    Array(&'a Array),
}

/// `softmax(q k^T * scale + mask) v`, all `[batch, heads, tokens, features]`; keys and values may
/// have fewer heads, each shared by a group of query heads.
///
/// # Errors
/// When the shapes do not fit.
pub fn scaled_dot_product_attention(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    mask: Mask<'_>,
) -> Result<Array> {
    attention([queries, keys, values], scale, mask, None)
}

/// As [`scaled_dot_product_attention`] of queries, keys and values, with one more logit a head
/// (`sinks`: `[heads]`) in the softmax's denominator.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention_with_sinks(
    queries_keys_values: [&Array; 3],
    scale: f32,
    mask: Mask<'_>,
    sinks: &Array,
) -> Result<Array> {
    attention(queries_keys_values, scale, mask, Some(sinks))
}

fn attention(qkv: [&Array; 3], scale: f32, mask: Mask<'_>, sinks: Option<&Array>) -> Result<Array> {
    let (mode, array) = match mask {
        Mask::None => ("", None),
        Mask::Causal => ("causal", None),
        Mask::Array(array) => ("array", Some(array)),
    };
    let [q, k, v] = qkv.map(Array::raw);
    // SAFETY: `mask` and `sinks` are null or borrowed for the call.
    let result = unsafe { ffi::attention(q, k, v, scale, mode, optional(array), optional(sinks)) };
    returned("scaled_dot_product_attention", &qkv, result)
}
