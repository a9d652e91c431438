//! A few queries of one key head: each key and value is read once, lanes run along the head.
//!
//! A task leaves a partial softmax over its span of keys, and the partial results are joined afterwards. Knows no
//! other head or sequence; `plan` cuts the spans.

use std::ops::Range;

use super::Batch;
use super::cache::{CHUNK, PARTS, Part, chunks};
use super::plan::{FewTask, Merge, partial_size};
use super::soft_cap::soft_cap;
use crate::memory::{Disjoint, Scratch};
use crate::simd::{Kernel, Simd, exp};

/// Attends over some of the keys.
pub(super) struct Attend<'a> {
    pub(super) batch: &'a Batch<'a>,
    pub(super) task: &'a FewTask,
    pub(super) partials: &'a Disjoint<'a>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (task, shape) = (self.task, self.batch.shape);
        let sequence = &self.batch.sequences[task.sequence];
        let (d, size) = (shape.head_dim, partial_size(sequence, shape));
        // SAFETY: each task has its own partial result.
        let partial = unsafe { self.partials.part(task.partial..task.partial + size) };
        for row in partial.chunks_exact_mut(d + 2) {
            row.fill(0.0);
            row[0] = LOWEST;
        }
        let mut scores = [0.0; CHUNK];
        let mut room = Scratch::new(self.batch.kv.room());
        for keys in chunks(task.keys.clone()) {
            let parts = self.batch.kv.parts(s, (sequence.blocks, task.kv_head), keys.clone(), &mut room);
            for (row, partial) in partial.chunks_exact_mut(d + 2).enumerate() {
                let offset = shape.offset(sequence, task.kv_head, row);
                let q = &self.batch.q[offset..offset + d];
                let mut rest = &mut scores[..];
                for part in &parts {
                    let (scores, behind) = rest.split_at_mut(part.tokens);
                    score(s, q, part.keys, shape.scale, scores);
                    rest = behind;
                }
                if let Some(cap) = shape.soft_cap {
                    soft_cap(s, cap, &mut scores);
                }
                let position = shape.position(sequence, row);
                hide(&mut scores, &keys, shape.first_seen(position)..position + 1);
                absorb(s, &mut scores, &parts, partial);
            }
        }
    }
}

/// Makes the scores of `keys` that are not seen, and those beyond them, minus infinity.
#[inline(always)]
fn hide(scores: &mut [f32; CHUNK], keys: &Range<usize>, seen: Range<usize>) {
    let first = seen.start.saturating_sub(keys.start).min(CHUNK);
    let end = seen.end.min(keys.end).saturating_sub(keys.start).max(first);
    scores[..first].fill(f32::NEG_INFINITY);
    scores[end..].fill(f32::NEG_INFINITY);
}

/// The scores of `q` with each of `keys`, `[_, d]`.
#[inline(always)]
fn score<S: Simd>(s: S, q: &[f32], keys: &[f32], scale: f32, scores: &mut [f32]) {
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

/// Adds a chunk to a row's partial result `[largest, sum, values..]`.
#[inline(always)]
fn absorb<S: Simd>(s: S, scores: &mut [f32; CHUNK], parts: &[Part<'_>; PARTS], partial: &mut [f32]) {
    let (state, out) = partial.split_at_mut(2);
    let d = out.len();
    let mut largest = s.splat(state[0]);
    let mut sum = s.splat(0.0);
    // SAFETY: LANES divides CHUNK.
    unsafe {
        for at in (0..CHUNK).step_by(S::LANES) {
            largest = s.max(largest, s.load(scores.as_ptr().add(at)));
        }
        let most = s.largest(largest);
        for at in (0..CHUNK).step_by(S::LANES) {
            let weight = exp(s, s.sub(s.load(scores.as_ptr().add(at)), s.splat(most)));
            sum = s.add(sum, weight);
            s.store(scores.as_mut_ptr().add(at), weight);
        }
        let fade = (state[0] - most).exp();
        state[0] = most;
        state[1] = state[1] * fade + s.sum(sum);
        let mut at = 0;
        while at + 4 * S::LANES <= d {
            accumulate::<S, 4>(s, (scores, parts), out, at, fade);
            at += 4 * S::LANES;
        }
        while at + S::LANES <= d {
            accumulate::<S, 1>(s, (scores, parts), out, at, fade);
            at += S::LANES;
        }
        for at in at..d {
            let column = parts.iter().flat_map(|part| part.values.chunks_exact(d));
            let column = column.zip(scores.iter()).map(|(value, weight)| value[at] * weight);
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
    (scores, parts): (&[f32; CHUNK], &[Part<'_>; PARTS]),
    out: &mut [f32],
    at: usize,
    fade: f32,
) {
    let d = out.len();
    // SAFETY: promised by the caller; rows of the values and `out` hold `d` values.
    unsafe {
        let out = out.as_mut_ptr().add(at);
        let mut sums = [s.splat(fade); V];
        for (v, sum) in sums.iter_mut().enumerate() {
            *sum = s.mul(s.load(out.add(v * S::LANES)), *sum);
        }
        let mut weights = &scores[..];
        for part in parts {
            let (these, behind) = weights.split_at(part.tokens);
            for (value, &weight) in part.values.chunks_exact(d).zip(these) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = s.fma(s.splat(weight), s.load(value.as_ptr().add(at + v * S::LANES)), *sum);
                }
            }
            weights = behind;
        }
        for (v, &sum) in sums.iter().enumerate() {
            s.store(out.add(v * S::LANES), sum);
        }
    }
}

/// Puts the partial results of a key head together.
pub(super) struct Join<'a> {
    pub(super) batch: &'a Batch<'a>,
    pub(super) merge: &'a Merge,
    pub(super) partials: &'a Disjoint<'a>,
    pub(super) out: &'a Disjoint<'a>,
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (shape, sequence) = (self.batch.shape, &self.batch.sequences[self.merge.sequence]);
        let (d, size) = (shape.head_dim, partial_size(sequence, shape));
        let Merge { kv_head, partial, parts, .. } = *self.merge;
        // SAFETY: the tasks that wrote these have finished, and only this merge reads them.
        let partials = unsafe { self.partials.part(partial..partial + parts * size) };
        for row in 0..size / (d + 2) {
            let offset = shape.offset(sequence, kv_head, row);
            // SAFETY: the rows of different sequences, and heads, do not overlap.
            let out = unsafe { self.out.part(offset..offset + d) };
            let part = |part: usize| &partials[part * size + row * (d + 2)..][..d + 2];
            let sink = shape.sink(kv_head, row);
            let most = (0..parts).fold(sink.unwrap_or(LOWEST), |most, p| most.max(part(p)[0]));
            let total: f32 = (0..parts).map(|p| part(p)[1] * (part(p)[0] - most).exp()).sum();
            let total = total + sink.map_or(0.0, |sink| (sink - most).exp());
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
