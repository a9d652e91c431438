//! Few rows of activations: the weights are read once and dequantised in registers.

use std::ops::Range;

use super::Product;
use super::prepared::{Prepare, Prepared};
use super::rows::{AffineRows, Bytes, FloatRows, Nibbles, WeightRows};
use crate::dequantize::{Widen, widen};
use crate::memory::Scratch;
use crate::pool::pool;
use crate::simd::{Kernel, Simd, dispatch};
use crate::weight::{Affine, Floats, Weight};

/// Computes the whole product.
pub(super) fn run(product: &Product<'_>) {
    let prepared = match product.weight {
        Weight::Affine(Affine {
            bits: bits @ (4 | 8),
            group,
            ..
        }) => {
            let prepare = Prepare {
                x: product.x,
                rows: product.rows,
                k: product.k,
                bits,
                group,
            };
            Some(dispatch(product.level, prepare))
        }
        _ => None,
    };
    // Tasks of a few microseconds: long against the cost of claiming one, short against that of waiting
    // for the last.
    let values = product.n * product.k.max(1);
    let share = values / (8 * pool().threads());
    let per_task = (share.clamp(32_768, 524_288) / product.k.max(1))
        .max(4)
        .next_multiple_of(4);
    pool().parallel_for(product.n.div_ceil(per_task), |task| {
        let rows = task * per_task..product.n.min((task + 1) * per_task);
        dispatch(
            product.level,
            Part {
                product,
                prepared: prepared.as_ref(),
                rows,
            },
        );
    });
}

/// The output columns of some weight rows.
struct Part<'a> {
    product: &'a Product<'a>,
    prepared: Option<&'a Prepared>,
    rows: Range<usize>,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (k, x) = (self.product.k, self.product.x.as_ptr());
        match (self.product.weight, self.prepared) {
            (Weight::Dense(Floats::F32(values)), _) => self.all(
                s,
                &FloatRows {
                    values: values.as_ptr(),
                    k,
                    x,
                },
            ),
            (Weight::Dense(Floats::F16(values)), _) => self.all(
                s,
                &FloatRows {
                    values: values.as_ptr(),
                    k,
                    x,
                },
            ),
            (Weight::Dense(Floats::Bf16(values)), _) => self.all(
                s,
                &FloatRows {
                    values: values.as_ptr(),
                    k,
                    x,
                },
            ),
            (Weight::Affine(affine), Some(prepared)) => self.affine(s, &affine, prepared),
            (Weight::Affine(_), None) => self.widened(s),
        }
    }
}

impl Part<'_> {
    /// 4 and 8 bits.
    #[inline(always)]
    fn affine<S: Simd>(&self, s: S, affine: &Affine<'_>, prepared: &Prepared) {
        let groups = prepared.groups;
        let range = self.rows.start * groups..self.rows.end * groups;
        let mut widened = Scratch::new(2 * range.len());
        let (scales, biases) = widened.split_at_mut(range.len());
        widen(s, affine.scales, range.clone(), scales);
        widen(s, affine.biases, range, biases);
        // Rows count from 0 everywhere below, so these pointers name row 0 whether or not it is here.
        let (scales, biases) = (scales.as_ptr(), biases.as_ptr());
        let back = self.rows.start * groups;
        let (scales, biases) = (scales.wrapping_sub(back), biases.wrapping_sub(back));
        macro_rules! rows {
            ($kind:ident) => {{
                macro_rules! group {
                    ($group:literal) => {
                        self.all(
                            s,
                            &$kind(AffineRows::<$group> {
                                packed: affine.packed.as_ptr(),
                                words: affine.words(self.product.k),
                                scales,
                                biases,
                                groups,
                                x: prepared.x(),
                                stride: prepared.stride,
                                sums: prepared.sums(),
                            }),
                        )
                    };
                }
                match affine.group {
                    32 => group!(32),
                    64 => group!(64),
                    _ => group!(128),
                }
            }};
        }
        if affine.bits == 4 {
            rows!(Nibbles)
        } else {
            rows!(Bytes)
        }
    }

    /// Other numbers of bits: a few rows at a time through memory.
    #[inline(always)]
    fn widened<S: Simd>(&self, s: S) {
        let Product { k, weight, x, .. } = *self.product;
        let mut buffer = Scratch::new(4 * k);
        for first in self.rows.clone().step_by(4) {
            let rows = first..self.rows.end.min(first + 4);
            for (row, out) in rows.clone().zip(buffer.chunks_exact_mut(k.max(1))) {
                Widen {
                    weight,
                    k,
                    row,
                    columns: 0..k,
                    out,
                }
                .run(s);
            }
            let values = buffer.as_ptr().wrapping_sub(first * k);
            Part { rows, ..*self }.all(
                s,
                &FloatRows {
                    values,
                    k,
                    x: x.as_ptr(),
                },
            );
        }
    }

    /// Every activation row with every weight row of this part, in blocks that fit the registers.
    #[inline(always)]
    fn all<S: Simd, B: WeightRows>(&self, s: S, weights: &B) {
        let rows = self.product.rows;
        let mut x_row = 0;
        while x_row < rows {
            x_row += match rows - x_row {
                8.. => self.blocks::<S, B, 8, 1>(s, weights, x_row),
                4.. => self.blocks::<S, B, 4, 1>(s, weights, x_row),
                2.. => self.blocks::<S, B, 2, 2>(s, weights, x_row),
                _ => self.blocks::<S, B, 1, 4>(s, weights, x_row),
            };
        }
    }

    /// `R` activation rows with every weight row, `W` at a time; `R`.
    #[inline(always)]
    fn blocks<S: Simd, B: WeightRows, const R: usize, const W: usize>(
        &self,
        s: S,
        weights: &B,
        x_row: usize,
    ) -> usize {
        let mut row = self.rows.start;
        while row + W <= self.rows.end {
            // SAFETY: both ranges of rows were checked against the arguments.
            let sums = unsafe { weights.dot::<S, R, W>(s, row, x_row) };
            sums.iter()
                .enumerate()
                .for_each(|(w, sums)| self.write(row + w, x_row, sums));
            row += W;
        }
        while row < self.rows.end {
            // SAFETY: as above.
            let [sums] = unsafe { weights.dot::<S, R, 1>(s, row, x_row) };
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
