//! Many rows of activations: a blocked matrix product.
//!
//! Activations are transposed once into panels a few vectors wide. A task dequantises a tile of the weights
//! into its own scratch and multiplies all panels with it, with activation rows across the lanes: that way
//! the weights need no transposition, only to be written out.

use std::ops::Range;

use super::{Part, Product, locate, tasks};
use crate::dequantize::Widen;
use crate::memory::{Disjoint, Scratch};
use crate::microkernel::{Left, Right, Sums, multiply};
use crate::pool::pool;
use crate::simd::{Kernel, Simd, dispatch};

/// Computes all products.
pub(super) fn run(product: &Product<'_>, parts: &[Part<'_>]) {
    dispatch(product.level, Run { product, parts });
}

struct Run<'a> {
    product: &'a Product<'a>,
    parts: &'a [Part<'a>],
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Product { level, x, rows, k } = *self.product;
        let width = if rows <= S::LANES { S::LANES } else { 2 * S::LANES };
        let panels = rows.div_ceil(width);
        let mut packed = Scratch::new(panels * width * k);
        let parts = Disjoint::new(&mut packed);
        pool().parallel_for(panels, |panel| {
            // SAFETY: each panel is written by one task.
            let out = unsafe { parts.part(panel * width * k..(panel + 1) * width * k) };
            transpose(x, panel * width..rows.min((panel + 1) * width), k, width, out);
        });
        let tiles = tasks(self.parts, TILE_ROWS);
        // With few tiles, the panels are shared out too, at the price of dequantising a tile more than once.
        let cuts = (2 * pool().threads()).div_ceil(tiles).min(panels);
        pool().parallel_for(tiles * cuts, |task| {
            let (tile, cut) = (task % tiles, task / tiles);
            let (at, rows) = locate(self.parts, tile, TILE_ROWS);
            let part = Tile {
                product: self.product,
                part: &self.parts[at],
                packed: &packed,
                width,
                rows,
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
    part: &'a Part<'a>,
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
        match (S::REGISTERS, self.width == S::LANES) {
            (32, true) => self.multiply::<S, 12, 1>(s),
            (32, false) => self.multiply::<S, 12, 2>(s),
            (_, true) => self.multiply::<S, 8, 1>(s),
            (_, false) => self.multiply::<S, 4, 2>(s),
        }
    }
}

impl Tile<'_> {
    #[inline(always)]
    fn multiply<S: Simd, const M: usize, const V: usize>(&self, s: S) {
        let (k, weight) = (self.product.k, self.part.weight);
        let padded = self.rows.len().next_multiple_of(M);
        let mut tile = Scratch::new(padded * DEPTH.min(k));
        // Sums that wait for more of the depth stay here, those of one panel and `M` rows together.
        let block = M * self.width;
        let waiting = if k > DEPTH { self.panels.len() * padded / M } else { 1 };
        let mut sums = Scratch::new(waiting * block);
        for begin in (0..k.max(1)).step_by(DEPTH) {
            let columns = begin..k.min(begin + DEPTH);
            let depth = columns.len();
            for (row, out) in self.rows.clone().zip(tile.chunks_exact_mut(depth.max(1))) {
                Widen { weight, k, row, columns: columns.clone(), out }.run(s);
            }
            for (index, panel) in self.panels.clone().enumerate() {
                let right = self.packed[(panel * k + begin) * self.width..].as_ptr();
                for first in (0..padded).step_by(M) {
                    let place = if k > DEPTH { index * padded / M + first / M } else { 0 };
                    let sums = &mut sums[place * block..(place + 1) * block];
                    let left = Left { start: tile[first * depth..].as_ptr(), row: depth, step: 1 };
                    // SAFETY: `tile` holds `padded` lines of `depth` values, the panel as many rows of
                    // `width = V * LANES`, and `sums` `M` of them.
                    unsafe {
                        let sums = Sums { start: sums.as_mut_ptr(), add: begin > 0 };
                        multiply::<S, M, V>(s, left, Right { start: right, depth }, sums);
                    }
                    if columns.end == k {
                        self.write(s, sums, panel, first..self.rows.len().min(first + M));
                    }
                }
            }
        }
    }

    /// Writes the sums `[lines, width]` of a panel, with the bias, to their place in the output.
    #[inline(always)]
    fn write<S: Simd>(&self, s: S, sums: &[f32], panel: usize, lines: Range<usize>) {
        let Part { n, bias, ref out, .. } = *self.part;
        let rows = self.product.rows;
        let column = self.rows.start + lines.start;
        let biases = bias.map(|bias| &bias[column..column + lines.len()]);
        let first = panel * self.width;
        let lanes = self.width.min(rows - first);
        let fours = lines.len() / 4 * 4;
        for line in (0..fours).step_by(4) {
            for lane in (0..lanes).step_by(S::LANES) {
                let mut four = [s.splat(0.0); 4];
                for (i, four) in four.iter_mut().enumerate() {
                    let bias = s.splat(biases.map_or(0.0, |biases| biases[line + i]));
                    // SAFETY: `width` is a multiple of LANES, so the vector is inside its line.
                    *four = s.add(unsafe { s.load(sums[(line + i) * self.width + lane..].as_ptr()) }, bias);
                }
                // SAFETY: in bounds by the checks; this tile and panel belong to one task.
                unsafe {
                    let to = out.at((first + lane) * n + column + line);
                    s.store_columns(to, n, lanes - lane, four);
                }
            }
        }
        for line in fours..lines.len() {
            let bias = biases.map_or(0.0, |biases| biases[line]);
            for (lane, sum) in sums[line * self.width..].iter().enumerate().take(lanes) {
                // SAFETY: as above.
                unsafe { *out.at((first + lane) * n + column + line) = sum + bias };
            }
        }
    }
}

/// Weight rows of a tile: a multiple of the rows of each kernel.
const TILE_ROWS: usize = 48;
/// Values of a row taken at a time, so that tile and panel stay in the second-level cache. A multiple of
/// every group size.
const DEPTH: usize = 768;
