//! `x W^T (+ bias)`: the product that is nearly all of a transformer's work.
//!
//! Few rows (decode) read the weights once and multiply them in registers; many rows (prefill) dequantise
//! a tile of them to memory and multiply that. Knows no layers; the caller supplies every size.

mod blocked;
mod few;
mod prepared;
mod rows;

use crate::error::{ShapeError, expect_len};
use crate::memory::Disjoint;
use crate::simd::Level;
use crate::weight::Weight;

/// One of several products of the same activations: `out = x weight^T + bias`.
#[derive(Debug)]
pub struct Projection<'a> {
    /// `[outputs, k]`.
    pub weight: Weight<'a>,
    /// Rows of the weight.
    pub outputs: usize,
    /// `[outputs]`.
    pub bias: Option<&'a [f32]>,
    /// `[rows, outputs]`.
    pub out: &'a mut [f32],
}

/// `out = x W^T + bias`: `x` is `[rows, k]`, `weight` `[n, k]`, `bias` `[n]`, `out` `[rows, n]`.
///
/// Sums are in `f32`. Few rows with weights of 2, 4 or 8 bits multiply in integers, exactly, with activations
/// rounded to 16 bits: the largest of a group of the weights is 32767 steps, so that each is off by `1 / 65534` of
/// it at most. Eight bits, as is usual, would be off by `1 / 254`. Other products round no activation.
///
/// A row's result is the same to the last bit whatever other rows it is computed with, as long as there are few
/// (at most [`FEW_ROWS`]) in both cases or many in both.
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
    linears(x, rows, k, &mut [Projection { weight: *weight, outputs: n, bias, out }])
}

/// Several products [`linear`] of the same `x`, `[rows, k]`, in one parallel loop over all their weights.
///
/// # Errors
/// [`ShapeError`] when a size disagrees; every `out` is then untouched.
pub fn linears(
    x: &[f32],
    rows: usize,
    k: usize,
    projections: &mut [Projection<'_>],
) -> Result<(), ShapeError> {
    for Projection { weight, outputs, bias, out } in projections.iter() {
        weight.check(*outputs, k)?;
        expect_len("input", x.len(), &[rows, k])?;
        expect_len("output", out.len(), &[rows, *outputs])?;
        if let Some(bias) = bias {
            expect_len("bias", bias.len(), &[*outputs])?;
        }
    }
    let parts: Vec<_> = projections.iter_mut().map(Part::of).filter(|part| part.n > 0).collect();
    if rows == 0 || parts.is_empty() {
        return Ok(());
    }
    let product = Product { level: Level::current(), x, rows, k };
    if rows <= FEW_ROWS {
        few::run(&product, &parts);
    } else {
        blocked::run(&product, &parts);
    }
    Ok(())
}

/// The activations of [`linears`], checked.
#[derive(Clone, Copy)]
struct Product<'a> {
    level: Level,
    x: &'a [f32],
    rows: usize,
    k: usize,
}

/// One matrix they are multiplied with, and where its products go.
struct Part<'a> {
    weight: Weight<'a>,
    n: usize,
    bias: Option<&'a [f32]>,
    out: Disjoint<'a>,
}

impl<'a> Part<'a> {
    fn of(projection: &'a mut Projection<'_>) -> Self {
        let Projection { weight, outputs, bias, ref mut out } = *projection;
        Self { weight, n: outputs, bias, out: Disjoint::new(out) }
    }
}

/// Finds task `index` among parts that are cut into tasks of `rows` weight rows: its part and its rows.
fn locate(parts: &[Part<'_>], mut index: usize, rows: usize) -> (usize, std::ops::Range<usize>) {
    let mut at = 0;
    while index >= parts[at].n.div_ceil(rows) {
        index -= parts[at].n.div_ceil(rows);
        at += 1;
    }
    (at, index * rows..parts[at].n.min((index + 1) * rows))
}

/// Tasks of `rows` weight rows that the parts make.
fn tasks(parts: &[Part<'_>], rows: usize) -> usize {
    parts.iter().map(|part| part.n.div_ceil(rows)).sum()
}

/// Up to this many rows the weights are read in registers.
pub const FEW_ROWS: usize = 16;
