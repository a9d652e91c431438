//! From `f32` rows to MXFP4.
//!
//! The rule is that of `mlx.core.quantize` with mode "mxfp4" on CPUs, so the two agree bit for bit where a group's scale
//! is a normal float. Which weights to quantise, the caller decides.

use crate::error::{ShapeError, expect_len, expect_multiple};
use crate::memory::Disjoint;
use crate::pool::pool;
use crate::weight::Mxfp4;

/// A matrix of 4-bit floats that owns its memory; see [`Mxfp4`] for the layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizedMxfp4 {
    /// `[n, k / 8]`.
    pub packed: Vec<u32>,
    /// `[n, k / 32]`.
    pub scales: Vec<u8>,
}

impl QuantizedMxfp4 {
    /// The matrix as a weight.
    pub fn as_mxfp4(&self) -> Mxfp4<'_> {
        Mxfp4 { packed: &self.packed, scales: &self.scales }
    }
}

/// Quantises `values`, `[n, k]`, to 4-bit floats with a power of two each 32 values.
///
/// A group's scale is the smallest with which its largest value is 6 at most; values are rounded to the nearest, ties to
/// even. A group that holds something infinite or no number becomes one of no numbers.
///
/// # Errors
/// [`ShapeError`] when `k` is not whole groups or `values` is not `[n, k]`.
pub fn quantize_mxfp4(values: &[f32], n: usize, k: usize) -> Result<QuantizedMxfp4, ShapeError> {
    const GROUP: usize = Mxfp4::GROUP;
    expect_multiple("the width of an mxfp4 weight", k, GROUP)?;
    expect_len("values", values.len(), &[n, k])?;
    let groups = values.len() / GROUP;
    let (mut packed, mut scales) = (vec![0; groups * WORDS], vec![0; groups]);
    let (packed_parts, scale_parts) = (Disjoint::new(&mut packed), Disjoint::new(&mut scales));
    pool().parallel_for(groups.div_ceil(GROUPS_PER_TASK), |task| {
        let first = task * GROUPS_PER_TASK;
        for index in first..groups.min(first + GROUPS_PER_TASK) {
            // SAFETY: each group has its own words and scale, and belongs to one task.
            let (packed, scale) = unsafe {
                let words = packed_parts.part(index * WORDS..(index + 1) * WORDS);
                (words, &mut scale_parts.part(index..index + 1)[0])
            };
            *scale = quantize_group(&values[index * GROUP..(index + 1) * GROUP], packed);
        }
    });
    Ok(QuantizedMxfp4 { packed, scales })
}

/// Packs one group into zeroed words; its scale.
fn quantize_group(values: &[f32], packed: &mut [u32]) -> u8 {
    let largest = values.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
    if values.iter().any(|value| !value.is_finite()) {
        return NOT_NUMBERS;
    }
    let scale = power_above(largest / LARGEST);
    // Both of a power of two and of its inverse are floats, if perhaps subnormal ones.
    let inverse = f64::from(i32::from(scale) - 127).exp2().recip() as f32;
    for (at, value) in values.iter().enumerate() {
        packed[at / 8] |= code(value * inverse) << (4 * (at % 8));
    }
    scale
}

/// The smallest power of two that is not below `value`, as a scale; 1 for 0.
fn power_above(value: f32) -> u8 {
    if value == 0.0 {
        return 127;
    }
    // A float with fractions belongs to the power above that of its exponent; the smallest power of two is subnormal.
    let smallest = 1 << 22;
    let exponent = value.to_bits() >> 23;
    let fraction = value.to_bits() & ((1 << 23) - 1);
    (exponent + u32::from(if exponent == 0 { fraction > smallest } else { fraction > 0 })) as u8
}

/// The code of the nearest 4-bit float; a negative number that becomes 0 has no sign.
fn code(value: f32) -> u32 {
    let size = value.abs();
    let above = [size > 0.25, size >= 0.75, size > 1.25, size >= 1.75, size > 2.5, size >= 3.5, size > 5.0];
    let code = above.into_iter().map(u32::from).sum();
    if value < 0.0 && code > 0 { code | 8 } else { code }
}

/// The largest 4-bit float.
const LARGEST: f32 = 6.0;
/// The scale of what is no number.
const NOT_NUMBERS: u8 = 255;
/// Words of a group.
const WORDS: usize = 4;
const GROUPS_PER_TASK: usize = 512;
