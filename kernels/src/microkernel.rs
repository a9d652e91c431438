//! The innermost loop of every matrix product here.
//!
//! One factor is broadcast, with any strides, and the other read in vectors: linear layers, attention scores
//! and attention outputs differ only in the strides. Knows nothing of blocking: callers pick a size that fits
//! the registers, and order the memory.

use crate::simd::Simd;

/// The left factor `a`: element `(i, p)` lies at `start + i * row + p * step`.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub(crate) start: *const f32,
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// The right factor `b`: `depth` dense rows of vectors.
#[derive(Clone, Copy)]
pub(crate) struct Right {
    pub(crate) start: *const f32,
    pub(crate) depth: usize,
}

/// Where the sums `c` go: dense rows of vectors.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) start: *mut f32,
    /// Whether to add to what is there.
    pub(crate) add: bool,
}

/// `c = a b`, or `c += a b`: `a` is `[M, depth]`, `b` is `[depth, V * LANES]`, `c` is `[M, V * LANES]`.
/// The whole of `c` stays in registers, and each element of `a` is broadcast.
///
/// # Safety
/// All elements of `a` and `b` can be read and those of `c` written (and read, to accumulate).
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd, const M: usize, const V: usize>(s: S, a: Left, b: Right, c: Sums) {
    let mut sums = [[s.splat(0.0); V]; M];
    // SAFETY: every offset is that of an element of `a`, `b` or `c`, as the caller promises.
    unsafe {
        if c.add {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = s.load(c.start.add((i * V + v) * S::LANES));
                }
            }
        }
        for p in 0..b.depth {
            let mut right = [s.splat(0.0); V];
            for (v, right) in right.iter_mut().enumerate() {
                *right = s.load(b.start.add((p * V + v) * S::LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = s.splat(*a.start.add(i * a.row + p * a.step));
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = s.fma(left, right, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                s.store(c.start.add((i * V + v) * S::LANES), sum);
            }
        }
    }
}
