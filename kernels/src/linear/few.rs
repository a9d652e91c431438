//! Few rows of activations: the weights are read once and multiplied in registers.
//!
//! Cuts the weight rows into tasks and those into blocks that fit the registers. Knows nothing of how a storage is
//! read: `rows` does. The parent decides how many rows are few.

use std::marker::PhantomData;
use std::ops::Range;

use super::prepared::Prepared;
use super::rows::{Codes, FloatRows, Fp4, GroupRows, Unsigned, WeightRows};
use super::{Part, Product, locate, tasks};
use crate::dequantize::{Widen, WidenPowers, WidenScales};
use crate::memory::Scratch;
use crate::pool::pool;
use crate::simd::{Kernel, Simd, dispatch, dispatch_products};
use crate::weight::{Affine, Floats, Mxfp4, Weight};

/// Computes all products.
pub(super) fn run(product: &Product<'_>, parts: &[Part<'_>]) {
    let prepared = prepare(product, parts);
    let k = product.k.max(1);
    // Tasks of a few microseconds: long against the cost of claiming one, short against that of waiting
    // for the last.
    let values = parts.iter().map(|part| part.n).sum::<usize>() * k;
    let share = values / (8 * pool().threads());
    let per_task = (share.clamp(32_768, 524_288) / k).max(4).next_multiple_of(4);
    pool().parallel_for(tasks(parts, per_task), |task| {
        let (at, rows) = locate(parts, task, per_task);
        run_part(product, &parts[at], &prepared, &rows);
    });
}

/// The activations for each layout of weights that is multiplied in integers.
fn prepare(product: &Product<'_>, parts: &[Part<'_>]) -> Vec<Prepared> {
    let mut prepared: Vec<Prepared> = Vec::new();
    for part in parts {
        if let Some((bits, group)) = integers(&part.weight)
            && find(&prepared, &part.weight).is_none()
        {
            prepared.push(Prepared::new(product, bits, group));
        }
    }
    prepared
}

/// Bits and group of weights that are multiplied in integers.
fn integers(weight: &Weight<'_>) -> Option<(u32, usize)> {
    match *weight {
        Weight::Affine(Affine { bits: bits @ (2 | 4 | 8), group, .. }) => Some((bits, group)),
        Weight::Mxfp4(_) => Some((4, Mxfp4::GROUP)),
        _ => None,
    }
}

fn find<'a>(prepared: &'a [Prepared], weight: &Weight<'_>) -> Option<&'a Prepared> {
    let layout = integers(weight)?;
    prepared.iter().find(|p| (p.layout().bits, p.layout().group) == layout)
}

/// The output columns of weight rows `rows`.
fn run_part(product: &Product<'_>, part: &Part<'_>, prepared: &[Prepared], rows: &Range<usize>) {
    let (k, x) = (product.k, product.x.as_ptr());
    match part.weight {
        Weight::Dense(Floats::F32(values)) => {
            multiply(product, part, rows, FloatRows { values: values.as_ptr(), k, x });
        }
        Weight::Dense(Floats::F16(values)) => {
            multiply(product, part, rows, FloatRows { values: values.as_ptr(), k, x });
        }
        Weight::Dense(Floats::Bf16(values)) => {
            multiply(product, part, rows, FloatRows { values: values.as_ptr(), k, x });
        }
        Weight::Affine(affine) => {
            let groups =
                Groups { packed: affine.packed, scales: Scales::Affine(affine.scales, affine.biases) };
            match (affine.bits, find(prepared, &part.weight)) {
                (2, Some(prepared)) => in_registers::<Unsigned<2>>(product, part, (groups, prepared), rows),
                (4, Some(prepared)) => in_registers::<Unsigned<4>>(product, part, (groups, prepared), rows),
                (8, Some(prepared)) => in_registers::<Unsigned<8>>(product, part, (groups, prepared), rows),
                _ => through_memory(product, part, rows),
            }
        }
        Weight::Mxfp4(Mxfp4 { packed, scales }) => match find(prepared, &part.weight) {
            Some(prepared) => {
                let groups = Groups { packed, scales: Scales::Powers(scales) };
                in_registers::<Fp4>(product, part, (groups, prepared), rows);
            }
            None => through_memory(product, part, rows),
        },
    }
}

/// Words of groups, and what the fields in them are worth.
#[derive(Clone, Copy)]
struct Groups<'a> {
    packed: &'a [u32],
    scales: Scales<'a>,
}

#[derive(Clone, Copy)]
enum Scales<'a> {
    /// Scales and biases.
    Affine(Floats<'a>, Floats<'a>),
    Powers(&'a [u8]),
}

impl Scales<'_> {
    /// Writes those of groups `range` to `scales` and, where there are any, `biases`.
    fn widen(&self, product: &Product<'_>, range: Range<usize>, [out, biases_out]: [&mut [f32]; 2]) {
        let level = product.level;
        match *self {
            Self::Affine(scales, biases) => {
                dispatch(level, WidenScales { values: scales, range: range.clone(), out });
                dispatch(level, WidenScales { values: biases, range, out: biases_out });
            }
            Self::Powers(powers) => dispatch(level, WidenPowers { powers, range, out }),
        }
    }
}

/// Fields that are integers.
fn in_registers<C: Codes>(
    product: &Product<'_>,
    part: &Part<'_>,
    (weights, prepared): (Groups<'_>, &Prepared),
    rows: &Range<usize>,
) {
    let layout = prepared.layout();
    let (groups, places) = (layout.groups(), layout.places());
    let side = ROWS_WIDENED * groups + 8;
    let mut widened = Scratch::new(2 * side);
    let (scales, biases) = widened.split_at_mut(side);
    // What is read past the last group must be numbers.
    scales.fill(0.0);
    for first in rows.clone().step_by(ROWS_WIDENED) {
        let block = first..rows.end.min(first + ROWS_WIDENED);
        weights.scales.widen(product, block.start * groups..block.end * groups, [scales, biases]);
        // Rows count from 0 everywhere below, so these pointers name row 0 whether or not it is here.
        let back = first * groups;
        let group_rows = GroupRows::<C> {
            codes: PhantomData,
            packed: weights.packed.as_ptr(),
            words: product.k * C::BITS / 32,
            scales: scales.as_ptr().wrapping_sub(back),
            biases: biases.as_ptr().wrapping_sub(back),
            group: layout.group,
            groups,
            pairs: prepared.pairs(),
            stride: layout.stride(),
            x_scales: prepared.scales(),
            scale_stride: layout.scale_stride(),
            sums: prepared.sums(),
            places,
        };
        multiply(product, part, &block, group_rows);
    }
}

/// Other fields: a few rows at a time.
fn through_memory(product: &Product<'_>, part: &Part<'_>, rows: &Range<usize>) {
    let Product { level, k, x, .. } = *product;
    let mut buffer = Scratch::new(ROWS_IN_MEMORY * k);
    for first in rows.clone().step_by(ROWS_IN_MEMORY) {
        let rows = first..rows.end.min(first + ROWS_IN_MEMORY);
        for (row, out) in rows.clone().zip(buffer.chunks_exact_mut(k.max(1))) {
            dispatch(level, Widen { weight: part.weight, k, row, columns: 0..k, out });
        }
        let values = buffer.as_ptr().wrapping_sub(first * k);
        multiply(product, part, &rows, FloatRows { values, k, x: x.as_ptr() });
    }
}

/// Weight rows whose scales are widened at a time.
const ROWS_WIDENED: usize = 16;
/// Weight rows dequantised at a time: a multiple of the most rows a block has.
const ROWS_IN_MEMORY: usize = 8;

fn multiply<B: WeightRows>(product: &Product<'_>, part: &Part<'_>, rows: &Range<usize>, weights: B) {
    let multiply = Multiply { product, part, rows: rows.clone(), weights };
    if B::INTEGER { dispatch_products(product.level, multiply) } else { dispatch(product.level, multiply) }
}

/// Every activation row with some weight rows, in blocks that fit the registers. One function per storage, as
/// a function of all of them is more than the compiler inlines well.
struct Multiply<'a, B> {
    product: &'a Product<'a>,
    part: &'a Part<'a>,
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
                (8.., 32) => self.blocks::<S, 8, 1>(s, x_row),
                (4.., 32) => self.blocks::<S, 4, 2>(s, x_row),
                (4.., _) => self.blocks::<S, 4, 1>(s, x_row),
                (2.., 32) => self.blocks::<S, 2, 4>(s, x_row),
                (2.., _) => self.blocks::<S, 2, 2>(s, x_row),
                (_, 32) => self.blocks::<S, 1, 4>(s, x_row),
                _ => self.blocks::<S, 1, 2>(s, x_row),
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
        let Part { n, bias, ref out, .. } = *self.part;
        let bias = bias.map_or(0.0, |bias| bias[row]);
        for (r, sum) in sums.iter().enumerate() {
            // SAFETY: in bounds by the checks; a column belongs to one task.
            unsafe { *out.at((x_row + r) * n + row) = sum + bias };
        }
    }
}
