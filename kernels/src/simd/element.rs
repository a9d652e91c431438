//! Storage types a vector of `f32` can be loaded from.
//!
//! Lets a loop over dense weights be written once for three dtypes. Knows no conversions: each instruction set
//! brings its own.

use half::{bf16, f16};

use super::{MAX_LANES, Simd};

/// A float as weights are stored.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
    /// # Safety
    /// `S::LANES` values can be read.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F;

    /// The first `count < S::LANES` lanes, the others 0.
    ///
    /// # Safety
    /// `count` values can be read.
    #[inline(always)]
    unsafe fn load_first<S: Simd>(simd: S, from: *const Self, count: usize) -> S::F {
        let mut padded = [Self::default(); MAX_LANES];
        // SAFETY: `count` values can be read, and `count < LANES <= MAX_LANES` fit.
        unsafe {
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
            Self::load(simd, padded.as_ptr())
        }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F {
        // SAFETY: promised by the caller.
        unsafe { simd.load(from) }
    }
    #[inline(always)]
    unsafe fn load_first<S: Simd>(simd: S, from: *const Self, count: usize) -> S::F {
        // SAFETY: promised by the caller.
        unsafe { simd.load_first(from, count) }
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F {
        // SAFETY: promised by the caller.
        unsafe { simd.load_f16(from) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F {
        // SAFETY: promised by the caller.
        unsafe { simd.load_bf16(from) }
    }
}
