//! From `f32` rows to MLX's affine layout.
//!
//! The rule is that of `mlx.core.quantize`, rounding included, so the two agree bit for bit on `f32` input.
//! Which weights to quantise, and how finely, the caller decides.

use crate::error::{ShapeError, expect_len, expect_multiple, product};
use crate::memory::Disjoint;
use crate::pool::pool;
use crate::weight::{Affine, Floats, check_layout};

/// A quantised matrix that owns its memory; see [`Affine`] for the layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// `[n, k * bits / 32]`.
    pub packed: Vec<u32>,
    /// `[n, k / group]`.
    pub scales: Vec<f32>,
    /// `[n, k / group]`.
    pub biases: Vec<f32>,
    /// 2, 3, 4, 5, 6 or 8.
    pub bits: u32,
    /// 32, 64 or 128.
    pub group: usize,
}

impl Quantized {
    /// The matrix as a weight.
    pub fn as_affine(&self) -> Affine<'_> {
        Affine {
            packed: &self.packed,
            scales: Floats::F32(&self.scales),
            biases: Floats::F32(&self.biases),
            bits: self.bits,
            group: self.group,
        }
    }
}

/// Quantises `values`, `[n, k]`, to `bits` bits with a scale and a bias each `group` values.
///
/// # Errors
/// [`ShapeError`] when the layout does not exist, `group` does not divide `k`, or `values` is not `[n, k]`.
pub fn quantize(
    values: &[f32],
    n: usize,
    k: usize,
    bits: u32,
    group: usize,
) -> Result<Quantized, ShapeError> {
    check_layout(bits, group)?;
    expect_multiple("the width of an affine weight", k, group)?;
    expect_len("values", values.len(), &[n, k])?;
    let (groups, words) = (values.len() / group, group / 32 * bits as usize);
    let mut packed = vec![0u32; product("packed weight", &[groups, words])?];
    let (mut scales, mut biases) = (vec![0.0; groups], vec![0.0; groups]);
    let (scale_parts, bias_parts) = (Disjoint::new(&mut scales), Disjoint::new(&mut biases));
    let packed_parts = Disjoint::new(&mut packed);
    pool().parallel_for(groups.div_ceil(GROUPS_PER_TASK), |task| {
        let first = task * GROUPS_PER_TASK;
        for index in first..groups.min(first + GROUPS_PER_TASK) {
            // SAFETY: each group has its own words, scale and bias, and belongs to one task.
            let (packed, scale, bias) = unsafe {
                (
                    packed_parts.part(index * words..(index + 1) * words),
                    &mut scale_parts.part(index..index + 1)[0],
                    &mut bias_parts.part(index..index + 1)[0],
                )
            };
            let values = &values[index * group..(index + 1) * group];
            (*scale, *bias) = quantize_group(values, bits, bytemuck::cast_slice_mut(packed));
        }
    });
    Ok(Quantized { packed, scales, biases, bits, group })
}

const GROUPS_PER_TASK: usize = 512;

/// Packs one group into zeroed bytes; its scale and bias.
///
/// The end of the range further from 0 is an exact multiple of the scale, so it and 0 are represented exactly.
fn quantize_group(values: &[f32], bits: u32, packed: &mut [u8]) -> (f32, f32) {
    let steps = ((1u32 << bits) - 1) as f32;
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let from_low = low.abs() > high.abs();
    let scale = ((high - low) / steps).max(1e-7);
    let scale = if from_low { scale } else { -scale };
    let edge = if from_low { low } else { high };
    let zero = (edge / scale).round_ties_even();
    let (scale, bias) = if zero == 0.0 { (scale, 0.0) } else { (edge / zero, edge) };
    let mut position = 0;
    for &value in values {
        let q = ((value - bias) / scale).round_ties_even().max(0.0).min(steps) as u32;
        let shifted = q << (position % 8);
        packed[position / 8] |= shifted as u8;
        if shifted > 0xff {
            packed[position / 8 + 1] |= (shifted >> 8) as u8;
        }
        position += bits as usize;
    }
    (scale, bias)
}
