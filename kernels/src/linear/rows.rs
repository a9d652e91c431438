//! Dot products of a few rows of activations with a few rows of weights, one implementation a storage.
//!
//! The loops that decide decode speed: sums and weights stay in registers, activations in the first-level
//! cache. The order of additions does not depend on how many rows are taken together. Checks nothing and knows no
//! threads: `few` does.

#![allow(clippy::needless_range_loop, reason = "the loops run over several arrays of registers side by side")]

use std::marker::PhantomData;

use crate::simd::{Element, MAX_LANES, Simd};

/// Weight rows that can be multiplied where they lie.
pub(super) trait WeightRows {
    /// Whether products are of integers.
    const INTEGER: bool;

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

/// How the fields of packed words are read as integers.
pub(super) trait Codes: Copy + Send + Sync {
    /// Bits of a field.
    const BITS: usize;
    /// Whether groups have a bias.
    const BIASED: bool;

    /// Fields `at` of both halves of each lane of `words`, which are taken in order: what is left in `words` is for the
    /// next.
    fn take<S: Simd>(s: S, words: &mut S::U, at: usize) -> S::U;
}

/// Unsigned numbers of 2, 4 or 8 bits.
#[derive(Clone, Copy)]
pub(super) struct Unsigned<const BITS: usize>;

impl<const BITS: usize> Codes for Unsigned<BITS> {
    const BITS: usize = BITS;
    const BIASED: bool = true;

    #[inline(always)]
    fn take<S: Simd>(s: S, words: &mut S::U, _: usize) -> S::U {
        let field = (1u32 << BITS) - 1;
        let taken = s.and(*words, s.splat_word(field << 16 | field));
        *words = s.shift_right(*words, BITS as u32);
        taken
    }
}

/// 4-bit floats, which are integers when doubled.
#[derive(Clone, Copy)]
pub(super) struct Fp4;

impl Codes for Fp4 {
    const BITS: usize = 4;
    const BIASED: bool = false;

    #[inline(always)]
    fn take<S: Simd>(s: S, words: &mut S::U, at: usize) -> S::U {
        s.fp4_pairs(*words, at)
    }
}

/// Rows of groups of 2, 4 or 8 bits; `scales` and `biases` widened, the rest as prepared.
///
/// `sum x (scale q + bias) = scale sum x q + bias sum x`, group by group, so a bias costs one product a group.
#[derive(Clone, Copy)]
pub(super) struct GroupRows<C> {
    pub(super) codes: PhantomData<C>,
    pub(super) packed: *const u32,
    pub(super) words: usize,
    /// `[rows, groups]`, and 8 values more that can be read.
    pub(super) scales: *const f32,
    /// `[rows, groups]`, where groups have any.
    pub(super) biases: *const f32,
    pub(super) group: usize,
    pub(super) groups: usize,
    pub(super) pairs: *const u32,
    pub(super) stride: usize,
    pub(super) x_scales: *const f32,
    pub(super) scale_stride: usize,
    pub(super) sums: *const f32,
    /// Which of the groups of a chunk each lane belongs to.
    pub(super) places: [u32; MAX_LANES],
}

impl<C: Codes> GroupRows<C> {
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
        if !C::BIASED {
            return out;
        }
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

    /// Adds the products of one chunk to `out`: of `LANES` words of each weight row, with their scales, and
    /// chunk `c` of the activations of row `x_row` on.
    ///
    /// # Safety
    /// `R` rows of activations exist, and have that chunk.
    #[inline(always)]
    unsafe fn chunk<S: Simd, const R: usize, const W: usize>(
        &self,
        s: S,
        mut words: [(S::U, S::F); W],
        [x_row, c]: [usize; 2],
        out: &mut [[S::F; R]; W],
    ) {
        let vectors = 16 / C::BITS;
        let mut sums = [[s.splat_word(0); R]; W];
        // SAFETY: the caller promises that these rows have this chunk.
        unsafe {
            let pairs = self.pairs.add(x_row * self.stride + c * vectors * S::LANES);
            for j in 0..vectors {
                let mut right = [s.splat_word(0); R];
                for r in 0..R {
                    right[r] = s.load_words(pairs.add(r * self.stride + j * S::LANES));
                }
                for w in 0..W {
                    let q = C::take(s, &mut words[w].0, j);
                    for r in 0..R {
                        sums[w][r] = s.dot_pairs(q, right[r], sums[w][r]);
                    }
                }
            }
            for r in 0..R {
                let x_scale = s.load(self.x_scales.add((x_row + r) * self.scale_stride + c * S::LANES));
                for w in 0..W {
                    out[w][r] = s.fma(s.to_float(sums[w][r]), s.mul(words[w].1, x_scale), out[w][r]);
                }
            }
        }
    }
}

impl<C: Codes> WeightRows for GroupRows<C> {
    const INTEGER: bool = true;

    #[inline(always)]
    unsafe fn dot<S: Simd, const R: usize, const W: usize>(
        &self,
        s: S,
        first: usize,
        x_row: usize,
    ) -> [[f32; R]; W] {
        let chunk = 32 / C::BITS * S::LANES;
        let (full, rest) = (self.words / S::LANES, self.words % S::LANES);
        let shift = self.group.trailing_zeros();
        // SAFETY: `LANES <= MAX_LANES`.
        let places = unsafe { s.load_words(self.places.as_ptr()) };
        // SAFETY: every offset is inside the rows the caller promises. Where the words do not fill the last
        // chunk, it reaches back over words already multiplied, for which `pairs` has 0 there; groups divide a
        // chunk then. Rows shorter than a chunk are read as far as they go.
        unsafe {
            let mut out = self.biases::<S, R, W>(s, first, x_row);
            let packed = self.packed.add(first * self.words);
            let scales = self.scales.add(first * self.groups);
            let mut words = [(s.splat_word(0), s.splat(0.0)); W];
            for c in 0..full {
                for w in 0..W {
                    let at = packed.add(w * self.words + c * S::LANES);
                    s.prefetch(at.cast::<u8>().wrapping_add(AHEAD));
                    words[w].0 = s.load_words(at);
                    words[w].1 = s.pick(scales.add(w * self.groups + ((c * chunk) >> shift)), places);
                }
                self.chunk(s, words, [x_row, c], &mut out);
            }
            if rest > 0 {
                for w in 0..W {
                    if full > 0 {
                        words[w].0 = s.load_words(packed.add((w + 1) * self.words - S::LANES));
                        words[w].1 = s.pick(scales.add((w + 1) * self.groups - (chunk >> shift)), places);
                    } else {
                        words[w].0 = s.load_words_first(packed.add(w * self.words), rest);
                        words[w].1 = s.pick(scales.add(w * self.groups), places);
                    }
                }
                self.chunk(s, words, [x_row, full], &mut out);
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
    const INTEGER: bool = false;

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
                    let from = values.add(w * self.k + at);
                    s.prefetch(from.cast::<u8>().wrapping_add(AHEAD));
                    let value = T::load(s, from);
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
    let (lanes, sums) = (lanes.as_flattened(), out.as_flattened_mut());
    let fours = lanes.len() / 4 * 4;
    for at in (0..fours).step_by(4) {
        let four = s.sum_four([lanes[at], lanes[at + 1], lanes[at + 2], lanes[at + 3]]);
        sums[at..at + 4].copy_from_slice(&four);
    }
    for at in fours..lanes.len() {
        sums[at] = s.sum(lanes[at]);
    }
    out
}

/// How far ahead of the loop weights are asked for, in bytes. Rows are short and several are read side by side, a
/// pattern that the hardware's own prefetching follows at half the speed.
const AHEAD: usize = 4096;
