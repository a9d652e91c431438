//! Few rows of activations: the weights are read once and dequantised in registers.
//!
//! Cuts the weight rows into tasks and those into blocks that fit the registers. Knows nothing of how a storage is
//! read: `rows` does. The parent decides how many rows are few.

use std::ops::Range;

use super::Product;
use super::prepared::{Prepare, Prepared};
use super::rows::{AffineRows, Bytes, FloatRows, Nibbles, WeightRows};
use crate::dequantize::{Widen, WidenFloats};
use crate::memory::Scratch;
use crate::pool::pool;
use crate::simd::{Kernel, Simd, dispatch};
use crate::weight::{Affine, Floats, Weight};

/// Computes the whole product.
pub(super) fn run(product: &Product<'_>) {
    let prepared = match product.weight {
        Weight::Affine(Affine { bits: bits @ (4 | 8), group, .. }) => {
            let prepare = Prepare { x: product.x, rows: product.rows, k: product.k, bits, group };
            Some(dispatch(product.level, prepare))
        }
        _ => None,
    };
    // Tasks of a few microseconds: long against the cost of claiming one, short against that of waiting
    // for the last.
    let values = product.n * product.k.max(1);
    let share = values / (8 * pool().threads());
    let per_task = (share.clamp(32_768, 524_288) / product.k.max(1)).max(4).next_multiple_of(4);
    pool().parallel_for(product.n.div_ceil(per_task), |task| {
        let rows = task * per_task..product.n.min((task + 1) * per_task);
        part(product, prepared.as_ref(), &rows);
    });
}

/// The output columns of weight rows `rows`.
fn part(product: &Product<'_>, prepared: Option<&Prepared>, rows: &Range<usize>) {
    let (k, x) = (product.k, product.x.as_ptr());
    match (product.weight, prepared) {
        (Weight::Dense(Floats::F32(values)), _) => {
            multiply(product, rows, FloatRows { values: values.as_ptr(), k, x });
        }
        (Weight::Dense(Floats::F16(values)), _) => {
            multiply(product, rows, FloatRows { values: values.as_ptr(), k, x });
        }
        (Weight::Dense(Floats::Bf16(values)), _) => {
            multiply(product, rows, FloatRows { values: values.as_ptr(), k, x });
        }
        (Weight::Affine(affine), Some(prepared)) => in_registers(product, rows, &affine, prepared),
        (Weight::Affine(_), None) => through_memory(product, rows),
    }
}

/// 4 and 8 bits.
fn in_registers(product: &Product<'_>, rows: &Range<usize>, affine: &Affine<'_>, prepared: &Prepared) {
    let groups = prepared.groups;
    let range = rows.start * groups..rows.end * groups;
    let mut widened = Scratch::new(2 * range.len());
    let (scales, biases) = widened.split_at_mut(range.len());
    dispatch(product.level, WidenFloats { values: affine.scales, range: range.clone(), out: scales });
    dispatch(product.level, WidenFloats { values: affine.biases, range, out: biases });
    // Rows count from 0 everywhere below, so these pointers name row 0 whether or not it is here.
    let back = rows.start * groups;
    let affine_rows = AffineRows {
        packed: affine.packed.as_ptr(),
        words: affine.words(product.k),
        scales: scales.as_ptr().wrapping_sub(back),
        biases: biases.as_ptr().wrapping_sub(back),
        groups,
        x: prepared.x(),
        stride: prepared.stride,
        sums: prepared.sums(),
    };
    match (affine.bits, affine.group) {
        (4, 32) => multiply(product, rows, Nibbles::<32>(affine_rows)),
        (4, 64) => multiply(product, rows, Nibbles::<64>(affine_rows)),
        (4, _) => multiply(product, rows, Nibbles::<128>(affine_rows)),
        (_, 32) => multiply(product, rows, Bytes::<32>(affine_rows)),
        (_, 64) => multiply(product, rows, Bytes::<64>(affine_rows)),
        (_, _) => multiply(product, rows, Bytes::<128>(affine_rows)),
    }
}

/// Other numbers of bits: a few rows at a time.
fn through_memory(product: &Product<'_>, rows: &Range<usize>) {
    let Product { level, k, weight, x, .. } = *product;
    let mut buffer = Scratch::new(ROWS_IN_MEMORY * k);
    for first in rows.clone().step_by(ROWS_IN_MEMORY) {
        let rows = first..rows.end.min(first + ROWS_IN_MEMORY);
        for (row, out) in rows.clone().zip(buffer.chunks_exact_mut(k.max(1))) {
            dispatch(level, Widen { weight, k, row, columns: 0..k, out });
        }
        let values = buffer.as_ptr().wrapping_sub(first * k);
        multiply(product, &rows, FloatRows { values, k, x: x.as_ptr() });
    }
}

/// Weight rows dequantised at a time: a multiple of the most rows a block has.
const ROWS_IN_MEMORY: usize = 8;

fn multiply<B: WeightRows>(product: &Product<'_>, rows: &Range<usize>, weights: B) {
    dispatch(product.level, Multiply { product, rows: rows.clone(), weights });
}

/// Every activation row with some weight rows, in blocks that fit the registers. One function per storage, as
/// a function of all of them is more than the compiler inlines well.
struct Multiply<'a, B> {
    product: &'a Product<'a>,
    rows: Range<usize>,
    weights: B,
}

impl<B: WeightRows> Kernel for Multiply<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.product.rows;
        let mut x_row = 0;
        while x_row < rows {
            x_row += match (rows - x_row, S::REGISTERS) {
                (8.., _) => self.blocks::<S, 8, 1>(s, x_row),
                (4.., 32) => self.blocks::<S, 4, 2>(s, x_row),
                (4.., _) => self.blocks::<S, 4, 1>(s, x_row),
                (2.., 32) => self.blocks::<S, 2, 4>(s, x_row),
                (2.., _) => self.blocks::<S, 2, 2>(s, x_row),
                _ => self.blocks::<S, 1, 4>(s, x_row),
            };
        }
    }
}

impl<B: WeightRows> Multiply<'_, B> {
    /// `R` activation rows with every weight row, `W` at a time; `R`.
    #[inline(always)]
    fn blocks<S: Simd, const R: usize, const W: usize>(&self, s: S, x_row: usize) -> usize {
        let mut row = self.rows.start;
        while row + W <= self.rows.end {
            // SAFETY: both ranges of rows were checked against the arguments.
            let sums = unsafe { self.weights.dot::<S, R, W>(s, row, x_row) };
            for (w, sums) in sums.iter().enumerate() {
                self.write(row + w, x_row, sums);
            }
            row += W;
        }
        while row < self.rows.end {
            // SAFETY: as above.
            let [sums] = unsafe { self.weights.dot::<S, R, 1>(s, row, x_row) };
            self.write(row, x_row, &sums);
            row += 1;
        }
        R
    }

    #[inline(always)]
    fn write(&self, row: usize, x_row: usize, sums: &[f32]) {
        let bias = self.product.bias.map_or(0.0, |bias| bias[row]);
        for (r, sum) in sums.iter().enumerate() {
            // SAFETY: in bounds by the checks; a column belongs to one task.
            unsafe { *self.product.out.at((x_row + r) * self.product.n + row) = sum + bias };
        }
    }
}
