//! Many rows of activations: a blocked matrix product.
//!
//! Activations are transposed once into panels a few vectors wide. A task dequantises a tile of the weights
//! into its own scratch and multiplies all panels with it, with activation rows across the lanes: that way
//! the weights need no transposition, only to be written out.

use std::ops::Range;

use super::Product;
use crate::dequantize::Widen;
use crate::memory::{Disjoint, Scratch};
use crate::microkernel::{Left, multiply};
use crate::pool::pool;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// Computes the whole product.
pub(super) fn run(product: &Product<'_>) {
    dispatch(product.level, Run { product });
}

struct Run<'a> {
    product: &'a Product<'a>,
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Product { level, x, rows, k, n, .. } = *self.product;
        let width = if rows <= S::LANES { S::LANES } else { 2 * S::LANES };
        let panels = rows.div_ceil(width);
        let mut packed = Scratch::new(panels * width * k);
        let parts = Disjoint::new(&mut packed);
        pool().parallel_for(panels, |panel| {
            // SAFETY: each panel is written by one task.
            let out = unsafe { parts.part(panel * width * k..(panel + 1) * width * k) };
            transpose(x, panel * width..rows.min((panel + 1) * width), k, width, out);
        });
        let tiles = n.div_ceil(TILE_ROWS);
        // With few tiles, the panels are shared out too, at the price of dequantising a tile more than once.
        let cuts = (2 * pool().threads()).div_ceil(tiles).min(panels);
        pool().parallel_for(tiles * cuts, |task| {
            let (tile, cut) = (task % tiles, task / tiles);
            let part = Tile {
                product: self.product,
                packed: &packed,
                width,
                rows: tile * TILE_ROWS..n.min((tile + 1) * TILE_ROWS),
                panels: panels * cut / cuts..panels * (cut + 1) / cuts,
            };
            dispatch(level, part);
        });
    }
}

/// Rows `rows` of `x`, `[_, k]`, to `out`, `[k, width]`, padded with 0.
fn transpose(x: &[f32], rows: Range<usize>, k: usize, width: usize, out: &mut [f32]) {
    if rows.len() < width {
        out.fill(0.0);
    }
    for first in (0..k).step_by(16) {
        let columns = first..k.min(first + 16);
        for (lane, row) in rows.clone().enumerate() {
            for (column, &value) in columns.clone().zip(&x[row * k + first..row * k + columns.end]) {
                out[column * width + lane] = value;
            }
        }
    }
}

/// The outputs of some weight rows for some panels.
struct Tile<'a> {
    product: &'a Product<'a>,
    packed: &'a [f32],
    width: usize,
    rows: Range<usize>,
    panels: Range<usize>,
}

impl Kernel for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // As many sums as the registers hold beside a row of the panel and a broadcast.
        match (S::LANES, self.width == S::LANES) {
            (16, true) => self.multiply::<S, 12, 1>(s),
            (16, false) => self.multiply::<S, 12, 2>(s),
            (8, true) => self.multiply::<S, 6, 1>(s),
            (8, false) => self.multiply::<S, 6, 2>(s),
            (_, true) => self.multiply::<S, 8, 1>(s),
            (_, false) => self.multiply::<S, FOUR_LANE_ROWS, 2>(s),
        }
    }
}

impl Tile<'_> {
    #[inline(always)]
    fn multiply<S: Simd, const M: usize, const V: usize>(&self, s: S) {
        let Product { k, weight, .. } = *self.product;
        let padded = self.rows.len().next_multiple_of(M);
        let mut tile = Scratch::new(padded * DEPTH.min(k));
        let mut sums = [0.0; MAX_ROWS * 2 * MAX_LANES];
        for begin in (0..k.max(1)).step_by(DEPTH) {
            let columns = begin..k.min(begin + DEPTH);
            let depth = columns.len();
            let mut lines = tile.chunks_exact_mut(depth.max(1));
            for (row, out) in self.rows.clone().zip(&mut lines) {
                Widen { weight, k, row, columns: columns.clone(), out }.run(s);
            }
            for panel in self.panels.clone() {
                let right = self.packed[(panel * k + begin) * self.width..].as_ptr();
                for first in (0..padded).step_by(M) {
                    let left = Left { start: tile[first * depth..].as_ptr(), row: depth, step: 1 };
                    // SAFETY: `tile` holds `padded` lines of `depth` values, the panel as many rows of
                    // `width = V * LANES`, and `sums` room for the largest kernel.
                    unsafe { multiply::<S, M, V>(s, left, right, depth, sums.as_mut_ptr(), false) };
                    self.write(&sums, panel, first..self.rows.len().min(first + M), begin == 0);
                }
            }
        }
    }

    /// Writes, or adds, the sums `[lines, width]` of a panel to their place in the output.
    #[inline(always)]
    fn write(&self, sums: &[f32], panel: usize, lines: Range<usize>, first: bool) {
        let Product { rows, n, bias, ref out, .. } = *self.product;
        let columns = self.rows.start + lines.start..self.rows.start + lines.end;
        for (lane, row) in (panel * self.width..rows.min((panel + 1) * self.width)).enumerate() {
            // SAFETY: in bounds by the checks; this tile and panel belong to one task.
            let out = unsafe { out.part(row * n + columns.start..row * n + columns.end) };
            for (line, out) in out.iter_mut().enumerate() {
                let sum = sums[line * self.width + lane];
                let before = if first { bias.map_or(0.0, |bias| bias[columns.start + line]) } else { *out };
                *out = before + sum;
            }
        }
    }
}

/// Weight rows of a tile: a multiple of the rows of each kernel.
const TILE_ROWS: usize = 48;
/// Values of a row taken at a time, so that tile and panel stay in the second-level cache. A multiple of
/// every group size.
const DEPTH: usize = 768;
/// Most rows of a kernel.
const MAX_ROWS: usize = 12;
/// Rows for sets of four lanes: NEON has 32 registers, the portable code may count on 16.
const FOUR_LANE_ROWS: usize = if cfg!(target_arch = "aarch64") { 12 } else { 4 };
