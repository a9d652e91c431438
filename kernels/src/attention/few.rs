//! A few queries of one key head: each key and value is read once, lanes run along the head.
//!
//! A task leaves a partial softmax over its span of keys, and the partial results are joined afterwards. Knows no
//! other head or sequence; `plan` cuts the spans.

use super::plan::{FEW_ROWS, FewTask, Merge, partial_size};
use super::{AttentionShape, SequenceKv};
use crate::memory::Disjoint;
use crate::simd::{Kernel, Simd, exp};

/// Attends over some of the keys.
pub(super) struct Attend<'a> {
    pub(super) shape: &'a AttentionShape,
    pub(super) sequence: &'a SequenceKv<'a>,
    pub(super) q: &'a [f32],
    pub(super) task: &'a FewTask,
    pub(super) partials: &'a Disjoint<'a>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (d, rows) = (self.shape.head_dim, self.sequence.queries.len() * self.shape.group());
        let size = partial_size(self.sequence, self.shape);
        // SAFETY: each task has its own partial result.
        let partial = unsafe { self.partials.part(self.task.partial..self.task.partial + size) };
        let base = self.task.kv_head * self.sequence.capacity;
        for row in partial.chunks_exact_mut(d + 2) {
            row.fill(0.0);
            row[0] = LOWEST;
        }
        let mut scores = [[0.0; BLOCK]; FEW_ROWS];
        for first in self.task.keys.clone().step_by(BLOCK) {
            let block = first..self.task.keys.end.min(first + BLOCK);
            let lines = (base + block.start) * d..(base + block.end) * d;
            let (keys, values) = (&self.sequence.keys[lines.clone()], &self.sequence.values[lines]);
            for (row, (scores, partial)) in
                scores.iter_mut().zip(partial.chunks_exact_mut(d + 2)).enumerate().take(rows)
            {
                let offset = self.shape.offset(self.sequence, self.task.kv_head, row);
                score(s, &self.q[offset..offset + d], keys, self.shape.scale, scores);
                let position = self.shape.position(self.sequence, row);
                let seen = self.shape.first_seen(position)..position + 1;
                for (key, score) in scores.iter_mut().enumerate() {
                    if key >= block.len() || !seen.contains(&(first + key)) {
                        *score = f32::NEG_INFINITY;
                    }
                }
                absorb(s, scores, values, partial);
            }
        }
    }
}

/// The scores of `q` with each of `keys`, `[_, d]`.
#[inline(always)]
fn score<S: Simd>(s: S, q: &[f32], keys: &[f32], scale: f32, scores: &mut [f32; BLOCK]) {
    let d = q.len();
    let (full, rest) = (d / S::LANES * S::LANES, d % S::LANES);
    for (key, score) in keys.chunks_exact(d).zip(scores) {
        let mut sum = s.splat(0.0);
        // SAFETY: `q` and `key` hold `d = full + rest` values.
        unsafe {
            for at in (0..full).step_by(S::LANES) {
                sum = s.fma(s.load(q.as_ptr().add(at)), s.load(key.as_ptr().add(at)), sum);
            }
            if rest > 0 {
                let q = s.load_first(q.as_ptr().add(full), rest);
                sum = s.fma(q, s.load_first(key.as_ptr().add(full), rest), sum);
            }
        }
        *score = s.sum(sum) * scale;
    }
}

/// Adds a block to a row's partial result `[largest, sum, values..]`.
#[inline(always)]
fn absorb<S: Simd>(s: S, scores: &mut [f32; BLOCK], values: &[f32], partial: &mut [f32]) {
    let (state, out) = partial.split_at_mut(2);
    let d = out.len();
    let mut largest = s.splat(state[0]);
    let mut sum = s.splat(0.0);
    // SAFETY: LANES divides BLOCK.
    unsafe {
        for at in (0..BLOCK).step_by(S::LANES) {
            largest = s.max(largest, s.load(scores.as_ptr().add(at)));
        }
        let most = s.largest(largest);
        for at in (0..BLOCK).step_by(S::LANES) {
            let weight = exp(s, s.sub(s.load(scores.as_ptr().add(at)), s.splat(most)));
            sum = s.add(sum, weight);
            s.store(scores.as_mut_ptr().add(at), weight);
        }
        let fade = (state[0] - most).exp();
        state[0] = most;
        state[1] = state[1] * fade + s.sum(sum);
        let mut at = 0;
        while at + 4 * S::LANES <= d {
            accumulate::<S, 4>(s, (scores, values), out, at, fade);
            at += 4 * S::LANES;
        }
        while at + S::LANES <= d {
            accumulate::<S, 1>(s, (scores, values), out, at, fade);
            at += S::LANES;
        }
        for at in at..d {
            let column = values.chunks_exact(d).zip(scores.iter()).map(|(value, weight)| value[at] * weight);
            out[at] = out[at] * fade + column.sum::<f32>();
        }
    }
}

/// Columns `at..at + V * LANES` of `out = fade * out + scores values`.
///
/// # Safety
/// Those columns exist.
#[inline(always)]
unsafe fn accumulate<S: Simd, const V: usize>(
    s: S,
    (scores, values): (&[f32; BLOCK], &[f32]),
    out: &mut [f32],
    at: usize,
    fade: f32,
) {
    let d = out.len();
    // SAFETY: promised by the caller; rows of `values` and `out` hold `d` values.
    unsafe {
        let out = out.as_mut_ptr().add(at);
        let mut sums = [s.splat(fade); V];
        for (v, sum) in sums.iter_mut().enumerate() {
            *sum = s.mul(s.load(out.add(v * S::LANES)), *sum);
        }
        for (value, &weight) in values.chunks_exact(d).zip(scores) {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = s.fma(s.splat(weight), s.load(value.as_ptr().add(at + v * S::LANES)), *sum);
            }
        }
        for (v, &sum) in sums.iter().enumerate() {
            s.store(out.add(v * S::LANES), sum);
        }
    }
}

/// Puts the partial results of a key head together.
pub(super) struct Join<'a> {
    pub(super) shape: &'a AttentionShape,
    pub(super) sequence: &'a SequenceKv<'a>,
    pub(super) merge: &'a Merge,
    pub(super) partials: &'a Disjoint<'a>,
    pub(super) out: &'a Disjoint<'a>,
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let d = self.shape.head_dim;
        let size = partial_size(self.sequence, self.shape);
        let Merge { kv_head, partial, parts, .. } = *self.merge;
        // SAFETY: the tasks that wrote these have finished, and only this merge reads them.
        let partials = unsafe { self.partials.part(partial..partial + parts * size) };
        for row in 0..size / (d + 2) {
            let offset = self.shape.offset(self.sequence, kv_head, row);
            // SAFETY: the rows of different sequences, and heads, do not overlap.
            let out = unsafe { self.out.part(offset..offset + d) };
            let part = |part: usize| &partials[part * size + row * (d + 2)..][..d + 2];
            let most = (0..parts).fold(LOWEST, |most, p| most.max(part(p)[0]));
            let total: f32 = (0..parts).map(|p| part(p)[1] * (part(p)[0] - most).exp()).sum();
            out.fill(0.0);
            for part in (0..parts).map(part) {
                let factor = (part[0] - most).exp() / total;
                out.iter_mut().zip(&part[2..]).for_each(|(out, value)| *out += factor * value);
            }
        }
    }
}

/// Below every score; finite, so that the difference to a masked score is not NaN.
pub(super) const LOWEST: f32 = -1e30;
/// Keys taken at a time, a multiple of the lanes of every instruction set.
const BLOCK: usize = 64;
