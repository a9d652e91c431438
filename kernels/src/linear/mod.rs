//! `x W^T (+ bias)`: the product that is nearly all of a transformer's work.
//!
//! Few rows (decode) read the weights once and dequantise them in registers; many rows (prefill) dequantise
//! a tile of them to memory and multiply that. Knows no layers; the caller supplies every size.

mod blocked;
mod few;
mod prepared;
mod rows;

use crate::error::{ShapeError, expect_len};
use crate::memory::Disjoint;
use crate::simd::Level;
use crate::weight::Weight;

/// `out = x W^T + bias`: `x` is `[rows, k]`, `weight` `[n, k]`, `bias` `[n]`, `out` `[rows, n]`.
///
/// Products and sums are in `f32`; no activation is rounded.
///
/// # Errors
/// [`ShapeError`] when a size disagrees; `out` is then untouched.
#[expect(clippy::too_many_arguments, reason = "a product's operands, each with its size")]
pub fn linear(
    x: &[f32],
    rows: usize,
    k: usize,
    weight: &Weight<'_>,
    n: usize,
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    weight.check(n, k)?;
    expect_len("input", x.len(), &[rows, k])?;
    expect_len("output", out.len(), &[rows, n])?;
    if let Some(bias) = bias {
        expect_len("bias", bias.len(), &[n])?;
    }
    if rows == 0 || n == 0 {
        return Ok(());
    }
    let product =
        Product { level: Level::current(), x, rows, k, weight: *weight, n, bias, out: Disjoint::new(out) };
    if rows <= FEW_ROWS {
        few::run(&product)
    } else {
        blocked::run(&product)
    }
    Ok(())
}

/// The arguments of [`linear`], checked.
struct Product<'a> {
    level: Level,
    x: &'a [f32],
    rows: usize,
    k: usize,
    weight: Weight<'a>,
    n: usize,
    bias: Option<&'a [f32]>,
    out: Disjoint<'a>,
}

/// Up to this many rows the weights are dequantised in registers.
const FEW_ROWS: usize = 8;
