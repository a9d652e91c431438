//! How MLX arrays hold keys and values: as they come, as other floats, or as small numbers with scales.
//!
//! The same codes as the CPU kernels store (`mlxcel_kernels::KvDtype`), made by MLX operations, so that tests can hold
//! one to the other. Each token's head is encoded by itself. Knows no blocks; `graph` places the rows.

use mlxcel_kernels::KvDtype;
use mlxcel_mlx_bridge::{Array, Dtype, Result};

use crate::decoder::length;

/// The share by which the range of a group is widened before its ends are rounded to `bf16`.
const SLACK: f32 = 1.0 / 256.0;
/// The least step: keeps the division by it finite.
const LEAST_STEP: f32 = 1e-30;

/// How rows are held; `None` as they come.
#[derive(Clone, Copy)]
pub(super) struct Encoding(pub(super) Option<KvDtype>);

impl Encoding {
    /// What is held of `rows`, `[tokens, kv_heads, head_dim]`: arrays `[tokens, kv_heads, _]`, one of floats, or codes
    /// and the groups' steps and least values.
    pub(super) fn encode(self, rows: &Array) -> Result<Vec<Array>> {
        match self.0 {
            None => Ok(vec![rows.clone()]),
            Some(KvDtype::F32) => Ok(vec![rows.astype(Dtype::Float32)?]),
            Some(KvDtype::F16) => {
                let rows = rows.astype(Dtype::Float32)?;
                let most = rows.scalar_like(f32::from(half::f16::MAX))?;
                let held = rows.minimum(&most)?.maximum(&most.negative()?)?;
                Ok(vec![held.astype(Dtype::Float16)?])
            }
            Some(KvDtype::Int8) => codes(rows, 8),
            Some(KvDtype::Int4) => {
                let mut held = codes(rows, 4)?;
                held[0] = pack(&held[0])?;
                Ok(held)
            }
        }
    }

    /// Rows of `dtype`, `[tokens, kv_heads, head_dim]`, from what is held of them.
    pub(super) fn decode(self, held: &[Array], head_dim: usize, dtype: Dtype) -> Result<Array> {
        let [first, scales @ ..] = held else { return Array::zeros(&[0, 0, length(head_dim)], dtype) };
        let codes = match self.0.and_then(KvDtype::code_bits) {
            None => return if first.dtype() == dtype { Ok(first.clone()) } else { first.astype(dtype) },
            Some(4) => unpack(first)?,
            Some(_) => first.clone(),
        };
        let scales = Array::concatenate(&scales.iter().collect::<Vec<_>>(), 2)?.astype(Dtype::Float32)?;
        let halves = scales.split(2, 2)?;
        let column = |side: &Array| side.expand_dims(&[3]);
        let codes = grouped(&codes.astype(Dtype::Float32)?, head_dim)?;
        let values = codes.multiply(&column(&halves[0])?)?.add(&column(&halves[1])?)?;
        values.reshape(&[first.shape()[0], first.shape()[1], length(head_dim)])?.astype(dtype)
    }
}

/// Codes as one byte each, `[tokens, kv_heads, head_dim]`, and steps beside least values, `[tokens, kv_heads, 2 groups]`.
fn codes(rows: &Array, bits: u32) -> Result<Vec<Array>> {
    let steps = ((1u32 << bits) - 1) as f32;
    let values = grouped(&rows.astype(Dtype::Float32)?, rows.shape()[2] as usize)?;
    let (low, high) = (values.min(&[3], true)?, values.max(&[3], true)?);
    let least = low.subtract(&low.abs()?.multiply_scalar(SLACK)?)?.astype(Dtype::Bfloat16)?;
    let from = least.astype(Dtype::Float32)?;
    let step = high.subtract(&from)?.multiply_scalar((1.0 + SLACK) / steps)?;
    let step = step.maximum(&step.scalar_like(LEAST_STEP)?)?.astype(Dtype::Bfloat16)?;
    let codes = values.subtract(&from)?.divide(&step.astype(Dtype::Float32)?)?.add_scalar(0.5)?;
    let codes = codes.minimum(&codes.scalar_like(steps)?)?.astype(Dtype::Uint8)?.reshape(rows.shape())?;
    Ok(vec![codes, Array::concatenate(&[&step.squeeze(&[3])?, &least.squeeze(&[3])?], 2)?])
}

/// `[tokens, kv_heads, groups, group]`.
fn grouped(rows: &Array, head_dim: usize) -> Result<Array> {
    let group = KvDtype::group(head_dim).max(1);
    let [tokens, heads] = [rows.shape()[0], rows.shape()[1]];
    rows.reshape(&[tokens, heads, length(head_dim / group), length(group)])
}

/// Two codes a byte, the lower half first; the last axis is even.
fn pack(codes: &Array) -> Result<Array> {
    let shape = codes.shape();
    let side = |first| codes.slice_strided(&[0, 0, first], shape, &[1, 1, 2]);
    side(0)?.bitwise_or(&side(1)?.left_shift(&byte(4)?)?)
}

/// The reverse.
fn unpack(bytes: &Array) -> Result<Array> {
    let shape = bytes.shape();
    let (low, high) = (bytes.bitwise_and(&byte(15)?)?, bytes.right_shift(&byte(4)?)?);
    Array::stack(&[&low, &high], 3)?.reshape(&[shape[0], shape[1], 2 * shape[2]])
}

/// A number to combine with each byte.
fn byte(value: u8) -> Result<Array> {
    Array::from_slice(&[value], &[1])
}
