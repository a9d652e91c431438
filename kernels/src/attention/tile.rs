//! A tile of queries of one key head across the lanes.
//!
//! Scores and output are small matrix products and softmax runs lane by lane, so nothing is summed across lanes;
//! the queries of all heads that share the key head stand side by side. Knows no other tile; `plan` cuts them.

use super::cache::{CHUNK, chunks};
use super::few::LOWEST;
use super::plan::TileTask;
use super::soft_cap::soft_cap;
use super::{Batch, SequenceKv};
use crate::memory::{Disjoint, Scratch};
use crate::microkernel::{Left, Right, Sums, multiply};
use crate::simd::{Kernel, MAX_LANES, Simd, exp};

/// Attends with some queries over all keys they see.
pub(super) struct Attend<'a> {
    pub(super) batch: &'a Batch<'a>,
    pub(super) task: &'a TileTask,
    pub(super) out: &'a Disjoint<'a>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = 2 * S::LANES;
        let mut rows = self.task.rows.clone();
        while !rows.is_empty() {
            let tile = rows.start..rows.end.min(rows.start + width);
            rows.start = tile.end;
            // Rows of a kernel: what the registers hold beside two vectors of queries.
            match S::REGISTERS {
                32 => self.tile::<S, 8>(s, tile),
                _ => self.tile::<S, 4>(s, tile),
            }
        }
    }
}

/// The running softmax of a tile, one lane a query.
struct State<F> {
    largest: [F; 2],
    sum: [F; 2],
    /// Position of the query.
    position: [F; 2],
}

impl Attend<'_> {
    fn sequence(&self) -> &SequenceKv<'_> {
        &self.batch.sequences[self.task.sequence]
    }

    #[inline(always)]
    fn tile<S: Simd, const M: usize>(&self, s: S, rows: std::ops::Range<usize>) {
        let (shape, sequence) = (self.batch.shape, self.sequence());
        let (d, width) = (shape.head_dim, 2 * S::LANES);
        let mut room = Scratch::new(self.batch.kv.room());
        let mut buffer = Scratch::new(2 * d * width + CHUNK * width);
        let (queries, rest) = buffer.split_at_mut(d * width);
        let (out, scores) = rest.split_at_mut(d * width);
        out.fill(0.0);
        self.pack(&rows, width, queries);
        let first = shape.position(sequence, rows.start);
        let last = shape.position(sequence, rows.end - 1);
        let mut positions = [last as f32; 2 * MAX_LANES];
        for (lane, row) in rows.clone().enumerate() {
            positions[lane] = shape.position(sequence, row) as f32;
        }
        let mut state = State {
            largest: [s.splat(LOWEST); 2],
            sum: [s.splat(0.0); 2],
            // SAFETY: there are `2 * MAX_LANES` positions.
            position: unsafe { [s.load(positions.as_ptr()), s.load(positions.as_ptr().add(S::LANES))] },
        };
        for keys in chunks(shape.first_seen(first)..last + 1) {
            let parts = self.batch.kv.parts(s, (sequence.blocks, self.task.kv_head), keys.clone(), &mut room);
            let scores = &mut scores[..keys.len() * width];
            let mut rest = &mut scores[..];
            for part in parts {
                let (scores, behind) = rest.split_at_mut(part.tokens * width);
                let left = Left { start: part.keys.as_ptr(), row: d, step: 1 };
                let right = Right { start: queries.as_ptr(), depth: d };
                let sums = Sums { start: scores.as_mut_ptr(), add: false };
                // SAFETY: `keys` holds rows of `d`, `scores` as many of `width`, `queries` `d` of `width`.
                unsafe { rows_times::<S, M>(s, left, part.tokens, right, sums) };
                rest = behind;
            }
            if let Some(cap) = shape.soft_cap {
                soft_cap(s, cap, scores);
            }
            let all_see = keys.end <= first + 1 && keys.start >= shape.first_seen(last);
            if !all_see {
                self.mask(s, &state, keys.start, scores);
            }
            soften(s, &mut state, scores, out);
            let mut rest = &scores[..];
            for part in parts {
                let count = part.tokens;
                let (weights, behind) = rest.split_at(count * width);
                let left = Left { start: part.values.as_ptr(), row: 1, step: d };
                let right = Right { start: weights.as_ptr(), depth: count };
                let sums = Sums { start: out.as_mut_ptr(), add: true };
                // SAFETY: `values` holds `count` rows of `d`, `weights` as many and `out` `d` of `width`.
                unsafe { rows_times::<S, M>(s, left, d, right, sums) };
                rest = behind;
            }
        }
        self.write(s, &state, &rows, out);
    }

    /// The queries, scaled and transposed: `[head_dim, width]`.
    #[inline(always)]
    fn pack(&self, rows: &std::ops::Range<usize>, width: usize, queries: &mut [f32]) {
        let d = self.batch.shape.head_dim;
        queries.fill(0.0);
        for (lane, row) in rows.clone().enumerate() {
            let offset = self.batch.shape.offset(self.sequence(), self.task.kv_head, row);
            for (i, value) in self.batch.q[offset..offset + d].iter().enumerate() {
                queries[i * width + lane] = value * self.batch.shape.scale;
            }
        }
    }

    /// Sets scores of keys a query does not see to minus infinity.
    #[inline(always)]
    fn mask<S: Simd>(&self, s: S, state: &State<S::F>, first: usize, scores: &mut [f32]) {
        let never = s.splat(f32::NEG_INFINITY);
        for (key, line) in scores.chunks_exact_mut(2 * S::LANES).enumerate() {
            let key = s.splat((first + key) as f32);
            for (v, line) in line.chunks_exact_mut(S::LANES).enumerate() {
                // SAFETY: `line` holds LANES values.
                unsafe {
                    let mut score = s.load(line.as_ptr());
                    score = s.select_less(state.position[v], key, never, score);
                    if let Some(window) = self.batch.shape.window {
                        let unseen = s.sub(state.position[v], s.splat(window as f32));
                        score = s.select_less(unseen, key, score, never);
                    }
                    s.store(line.as_mut_ptr(), score);
                }
            }
        }
    }

    /// Divides by the sums and writes the rows to their places.
    #[inline(always)]
    fn write<S: Simd>(&self, s: S, state: &State<S::F>, rows: &std::ops::Range<usize>, out: &[f32]) {
        let (d, width) = (self.batch.shape.head_dim, 2 * S::LANES);
        let mut sinks = [f32::NEG_INFINITY; 2 * MAX_LANES];
        for (lane, row) in rows.clone().enumerate() {
            sinks[lane] = self.batch.shape.sink(self.task.kv_head, row).unwrap_or(f32::NEG_INFINITY);
        }
        let mut factors = [0.0; 2 * MAX_LANES];
        for (v, (&sum, &largest)) in state.sum.iter().zip(&state.largest).enumerate() {
            // SAFETY: there are `2 * MAX_LANES` sinks and factors.
            unsafe {
                let sink = exp(s, s.sub(s.load(sinks.as_ptr().add(v * S::LANES)), largest));
                let factor = s.div(s.splat(1.0), s.add(sum, sink));
                s.store(factors.as_mut_ptr().add(v * S::LANES), factor);
            }
        }
        for (lane, row) in rows.clone().enumerate() {
            let offset = self.batch.shape.offset(self.sequence(), self.task.kv_head, row);
            // SAFETY: each query belongs to one tile.
            let to = unsafe { self.out.part(offset..offset + d) };
            for (i, to) in to.iter_mut().enumerate() {
                *to = out[i * width + lane] * factors[lane];
            }
        }
    }
}

/// Turns scores `[keys, width]` into weights, and scales sums and `out` to the new largest score.
#[inline(always)]
fn soften<S: Simd>(s: S, state: &mut State<S::F>, scores: &mut [f32], out: &mut [f32]) {
    let width = 2 * S::LANES;
    let mut fade = [s.splat(1.0); 2];
    // SAFETY: both slices are whole rows of `width`.
    unsafe {
        for (v, fade) in fade.iter_mut().enumerate() {
            let mut largest = state.largest[v];
            for line in scores.chunks_exact(width) {
                largest = s.max(largest, s.load(line.as_ptr().add(v * S::LANES)));
            }
            *fade = exp(s, s.sub(state.largest[v], largest));
            let mut sum = s.mul(state.sum[v], *fade);
            for line in scores.chunks_exact_mut(width) {
                let at = line.as_mut_ptr().add(v * S::LANES);
                let weight = exp(s, s.sub(s.load(at), largest));
                sum = s.add(sum, weight);
                s.store(at, weight);
            }
            (state.largest[v], state.sum[v]) = (largest, sum);
        }
        for line in out.chunks_exact_mut(width) {
            for (v, &fade) in fade.iter().enumerate() {
                let at = line.as_mut_ptr().add(v * S::LANES);
                s.store(at, s.mul(s.load(at), fade));
            }
        }
    }
}

/// `c = a b` or `c += a b` for any number of rows of `a`, two vectors wide.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn rows_times<S: Simd, const M: usize>(s: S, a: Left, rows: usize, b: Right, c: Sums) {
    let (width, mut row) = (2 * S::LANES, 0);
    // SAFETY: promised by the caller.
    unsafe {
        while row < rows {
            let a = Left { start: a.start.add(row * a.row), ..a };
            let c = Sums { start: c.start.add(row * width), ..c };
            row += if row + M <= rows {
                multiply::<S, M, 2>(s, a, b, c);
                M
            } else {
                multiply::<S, 1, 2>(s, a, b, c);
                1
            };
        }
    }
}
