//! Dot products of a few rows of activations with a few rows of weights, one implementation a storage.
//!
//! The loops that decide decode speed: sums and weights stay in registers, activations in the first-level
//! cache. Checks nothing and knows no threads: `few` does.

#![allow(clippy::needless_range_loop, reason = "the loops run over several arrays of registers side by side")]

use crate::simd::{Element, Simd};

/// Weight rows that can be multiplied where they lie.
pub(super) trait WeightRows {
    /// The products of weight rows `first..first + W` with activation rows `x_row..x_row + R`.
    ///
    /// # Safety
    /// Those rows exist.
    unsafe fn dot<S: Simd, const R: usize, const W: usize>(
        &self,
        s: S,
        first: usize,
        x_row: usize,
    ) -> [[f32; R]; W];
}

/// Rows in the affine layout; `scales` and `biases` widened, `x` and `sums` as prepared.
///
/// `sum x (scale q + bias) = scale sum x q + bias sum x`, group by group, so a bias costs one product a group.
#[derive(Clone, Copy)]
pub(super) struct AffineRows {
    pub(super) packed: *const u32,
    pub(super) words: usize,
    pub(super) scales: *const f32,
    pub(super) biases: *const f32,
    pub(super) groups: usize,
    pub(super) x: *const f32,
    pub(super) stride: usize,
    pub(super) sums: *const f32,
}

impl AffineRows {
    /// The part of the products that the biases make, not yet summed over lanes.
    ///
    /// # Safety
    /// As for [`WeightRows::dot`].
    #[inline(always)]
    unsafe fn biases<S: Simd, const R: usize, const W: usize>(
        &self,
        s: S,
        first: usize,
        x_row: usize,
    ) -> [[S::F; R]; W] {
        let mut out = [[s.splat(0.0); R]; W];
        let full = self.groups / S::LANES * S::LANES;
        let rest = self.groups - full;
        // SAFETY: rows `first..first + W` of `biases` and `x_row..x_row + R` of `sums` hold `groups` values.
        unsafe {
            for (w, out) in out.iter_mut().enumerate() {
                let biases = self.biases.add((first + w) * self.groups);
                for (r, out) in out.iter_mut().enumerate() {
                    let sums = self.sums.add((x_row + r) * self.groups);
                    for at in (0..full).step_by(S::LANES) {
                        *out = s.fma(s.load(biases.add(at)), s.load(sums.add(at)), *out);
                    }
                    if rest > 0 {
                        let sums = s.load_first(sums.add(full), rest);
                        *out = s.fma(s.load_first(biases.add(full), rest), sums, *out);
                    }
                }
            }
        }
        out
    }
}

/// 4-bit rows: eight to a word.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<const GROUP: usize>(pub(super) AffineRows);

impl<const GROUP: usize> Nibbles<GROUP> {
    /// Adds `scale * (word . x)` to `out` for each word and its scale, and eight vectors of activations at `x`.
    ///
    /// # Safety
    /// `R` rows of eight vectors can be read at `x`, `stride` apart.
    #[inline(always)]
    unsafe fn chunk<S: Simd, const R: usize, const W: usize>(
        &self,
        s: S,
        mut words: [(S::U, S::F); W],
        x: *const f32,
        out: &mut [[S::F; R]; W],
    ) {
        let mut sums = [[s.splat(0.0); R]; W];
        for j in 0..8 {
            let mut right = [s.splat(0.0); R];
            for (r, right) in right.iter_mut().enumerate() {
                // SAFETY: promised by the caller.
                *right = unsafe { s.load(x.add(r * self.0.stride + j * S::LANES)) };
            }
            for w in 0..W {
                let q = s.low_nibble(words[w].0);
                words[w].0 = s.drop_nibble(words[w].0);
                for r in 0..R {
                    sums[w][r] = if j == 0 { s.mul(q, right[r]) } else { s.fma(q, right[r], sums[w][r]) };
                }
            }
        }
        for w in 0..W {
            for r in 0..R {
                out[w][r] = s.fma(words[w].1, sums[w][r], out[w][r]);
            }
        }
    }
}

impl<const GROUP: usize> WeightRows for Nibbles<GROUP> {
    #[inline(always)]
    unsafe fn dot<S: Simd, const R: usize, const W: usize>(
        &self,
        s: S,
        first: usize,
        x_row: usize,
    ) -> [[f32; R]; W] {
        let rows = &self.0;
        let chunk = 8 * S::LANES;
        let spread = (chunk / GROUP).max(1);
        let (full, rest) = (rows.words / S::LANES, rows.words % S::LANES);
        // SAFETY: every offset is inside the rows the caller promises. Where the words do not fill the last
        // chunk, it reaches back over words already multiplied, for which `x` has 0 there; groups divide a
        // chunk then. Rows shorter than a chunk, of less than four groups, are read as far as they go.
        unsafe {
            let mut out = rows.biases::<S, R, W>(s, first, x_row);
            let x = rows.x.add(x_row * rows.stride);
            let packed = rows.packed.add(first * rows.words);
            let scales = rows.scales.add(first * rows.groups);
            let mut words = [(s.load_words_first(packed, 0), s.splat(0.0)); W];
            for c in 0..full {
                for w in 0..W {
                    let at = packed.add(w * rows.words + c * S::LANES);
                    s.prefetch(at.cast::<u8>().wrapping_add(AHEAD));
                    words[w].0 = s.load_words(at);
                    words[w].1 = s.spread(scales.add(w * rows.groups + c * chunk / GROUP), spread);
                }
                self.chunk(s, words, x.add(c * chunk), &mut out);
            }
            if rest > 0 && full > 0 {
                for w in 0..W {
                    words[w].0 = s.load_words(packed.add((w + 1) * rows.words - S::LANES));
                    words[w].1 = s.spread(scales.add((w + 1) * rows.groups - spread), spread);
                }
                self.chunk(s, words, x.add(full * chunk), &mut out);
            } else if rest > 0 {
                let mut left = [[0.0; 4]; W];
                for w in 0..W {
                    words[w].0 = s.load_words_first(packed.add(w * rows.words), rest);
                    for group in 0..rows.groups {
                        left[w][group] = *scales.add(w * rows.groups + group);
                    }
                    words[w].1 = s.spread(left[w].as_ptr(), spread);
                }
                self.chunk(s, words, x, &mut out);
            }
            sums(s, &out)
        }
    }
}

/// 8-bit rows: four to a word.
#[derive(Clone, Copy)]
pub(super) struct Bytes<const GROUP: usize>(pub(super) AffineRows);

impl<const GROUP: usize> WeightRows for Bytes<GROUP> {
    #[inline(always)]
    unsafe fn dot<S: Simd, const R: usize, const W: usize>(
        &self,
        s: S,
        first: usize,
        x_row: usize,
    ) -> [[f32; R]; W] {
        let rows = &self.0;
        // SAFETY: every offset is inside the rows the caller promises; LANES divides GROUP.
        unsafe {
            let mut out = rows.biases::<S, R, W>(s, first, x_row);
            let x = rows.x.add(x_row * rows.stride);
            for group in 0..rows.groups {
                let mut sums = [[s.splat(0.0); R]; W];
                for w in 0..W {
                    let at = rows.packed.add((first + w) * rows.words).cast::<u8>().add(group * GROUP);
                    s.prefetch(at.wrapping_add(AHEAD));
                }
                for at in (group * GROUP..(group + 1) * GROUP).step_by(S::LANES) {
                    for w in 0..W {
                        let q = s.load_bytes(rows.packed.add((first + w) * rows.words).cast::<u8>().add(at));
                        for r in 0..R {
                            sums[w][r] = s.fma(q, s.load(x.add(r * rows.stride + at)), sums[w][r]);
                        }
                    }
                }
                for w in 0..W {
                    let scale = s.splat(*rows.scales.add((first + w) * rows.groups + group));
                    for r in 0..R {
                        out[w][r] = s.fma(scale, sums[w][r], out[w][r]);
                    }
                }
            }
            sums(s, &out)
        }
    }
}

/// Rows of floats.
#[derive(Clone, Copy)]
pub(super) struct FloatRows<T> {
    pub(super) values: *const T,
    pub(super) k: usize,
    pub(super) x: *const f32,
}

impl<T: Element> WeightRows for FloatRows<T> {
    #[inline(always)]
    unsafe fn dot<S: Simd, const R: usize, const W: usize>(
        &self,
        s: S,
        first: usize,
        x_row: usize,
    ) -> [[f32; R]; W] {
        let mut out = [[s.splat(0.0); R]; W];
        let full = self.k / S::LANES * S::LANES;
        let rest = self.k - full;
        // SAFETY: rows `first..first + W` of `values` and `x_row..x_row + R` of `x` hold `k` values.
        unsafe {
            let values = self.values.add(first * self.k);
            let x = self.x.add(x_row * self.k);
            for at in (0..full).step_by(S::LANES) {
                for w in 0..W {
                    let value = T::load(s, values.add(w * self.k + at));
                    for r in 0..R {
                        out[w][r] = s.fma(value, s.load(x.add(r * self.k + at)), out[w][r]);
                    }
                }
            }
            if rest > 0 {
                for w in 0..W {
                    let value = T::load_first(s, values.add(w * self.k + full), rest);
                    for r in 0..R {
                        out[w][r] = s.fma(value, s.load_first(x.add(r * self.k + full), rest), out[w][r]);
                    }
                }
            }
            sums(s, &out)
        }
    }
}

/// The sum of the lanes of each vector.
#[inline(always)]
fn sums<S: Simd, const R: usize, const W: usize>(s: S, lanes: &[[S::F; R]; W]) -> [[f32; R]; W] {
    let mut out = [[0.0; R]; W];
    for w in 0..W {
        for r in 0..R {
            out[w][r] = s.sum(lanes[w][r]);
        }
    }
    out
}

/// How far ahead of the loop weights are asked for, in bytes. Rows are short and several are read side by side, a
/// pattern that the hardware's own prefetching follows at half the speed.
const AHEAD: usize = 4096;
