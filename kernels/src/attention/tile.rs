//! A tile of queries of one key head across the lanes.
//!
//! Scores and output are small matrix products and softmax runs lane by lane, so nothing is summed across lanes;
//! the queries of all heads that share the key head stand side by side. Knows no other tile; `plan` cuts them.

use super::few::LOWEST;
use super::plan::TileTask;
use super::{AttentionShape, SequenceKv};
use crate::memory::{Disjoint, Scratch};
use crate::microkernel::{Left, Right, Sums, multiply};
use crate::simd::{Kernel, MAX_LANES, Simd, exp};

/// Attends with some queries over all keys they see.
pub(super) struct Attend<'a> {
    pub(super) shape: &'a AttentionShape,
    pub(super) sequence: &'a SequenceKv<'a>,
    pub(super) q: &'a [f32],
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
    #[inline(always)]
    fn tile<S: Simd, const M: usize>(&self, s: S, rows: std::ops::Range<usize>) {
        let (d, width) = (self.shape.head_dim, 2 * S::LANES);
        let mut buffer = Scratch::new(2 * d * width + KEYS * width);
        let (queries, rest) = buffer.split_at_mut(d * width);
        let (out, scores) = rest.split_at_mut(d * width);
        out.fill(0.0);
        self.pack(&rows, width, queries);
        let first = self.shape.position(self.sequence, rows.start);
        let last = self.shape.position(self.sequence, rows.end - 1);
        let mut positions = [last as f32; 2 * MAX_LANES];
        for (lane, row) in rows.clone().enumerate() {
            positions[lane] = self.shape.position(self.sequence, row) as f32;
        }
        let mut state = State {
            largest: [s.splat(LOWEST); 2],
            sum: [s.splat(0.0); 2],
            // SAFETY: there are `2 * MAX_LANES` positions.
            position: unsafe { [s.load(positions.as_ptr()), s.load(positions.as_ptr().add(S::LANES))] },
        };
        for key in (self.shape.first_seen(first)..last + 1).step_by(KEYS) {
            let count = KEYS.min(last + 1 - key);
            let line = (self.task.kv_head * self.sequence.capacity + key) * d;
            let keys = self.sequence.keys[line..line + count * d].as_ptr();
            let values = self.sequence.values[line..line + count * d].as_ptr();
            // SAFETY: `keys` and `values` hold `count` rows of `d`, the buffers `d` and `KEYS` rows of `width`.
            unsafe {
                let left = Left { start: keys, row: d, step: 1 };
                let right = Right { start: queries.as_ptr(), depth: d };
                rows_times::<S, M>(s, left, count, right, Sums { start: scores.as_mut_ptr(), add: false });
                let all_see = key + count <= first + 1 && key >= self.shape.first_seen(last);
                if !all_see {
                    self.mask(s, &state, key, &mut scores[..count * width]);
                }
                soften(s, &mut state, &mut scores[..count * width], out);
                let left = Left { start: values, row: 1, step: d };
                let right = Right { start: scores.as_ptr(), depth: count };
                rows_times::<S, M>(s, left, d, right, Sums { start: out.as_mut_ptr(), add: true });
            }
        }
        self.write(s, &state, &rows, out);
    }

    /// The queries, scaled and transposed: `[head_dim, width]`.
    #[inline(always)]
    fn pack(&self, rows: &std::ops::Range<usize>, width: usize, queries: &mut [f32]) {
        let d = self.shape.head_dim;
        queries.fill(0.0);
        for (lane, row) in rows.clone().enumerate() {
            let offset = self.shape.offset(self.sequence, self.task.kv_head, row);
            for (i, value) in self.q[offset..offset + d].iter().enumerate() {
                queries[i * width + lane] = value * self.shape.scale;
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
                    if let Some(window) = self.shape.window {
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
        let (d, width) = (self.shape.head_dim, 2 * S::LANES);
        let mut factors = [0.0; 2 * MAX_LANES];
        for (v, &sum) in state.sum.iter().enumerate() {
            // SAFETY: there are `2 * MAX_LANES` factors.
            unsafe { s.store(factors.as_mut_ptr().add(v * S::LANES), s.div(s.splat(1.0), sum)) };
        }
        for (lane, row) in rows.clone().enumerate() {
            let offset = self.shape.offset(self.sequence, self.task.kv_head, row);
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

/// Keys taken at a time.
const KEYS: usize = 64;
