//! The soft cap of scores.

use crate::simd::{Simd, tanh};

/// Each score `x` becomes `cap * tanh(x / cap)`. As many scores as fill vectors.
#[inline(always)]
pub(super) fn soft_cap<S: Simd>(s: S, cap: f32, scores: &mut [f32]) {
    let (inverse, cap) = (s.splat(1.0 / cap), s.splat(cap));
    for vector in scores.chunks_exact_mut(S::LANES) {
        // SAFETY: `vector` holds LANES values.
        unsafe {
            let capped = tanh(s, s.mul(s.load(vector.as_ptr()), inverse));
            s.store(vector.as_mut_ptr(), s.mul(cap, capped));
        }
    }
}
