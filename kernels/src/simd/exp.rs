//! The exponential of a vector.
//!
//! Softmax and SiLU need it to `f32` accuracy and nothing more, so no infinities or subnormals come out of it.
//! Knows no callers: they keep their arguments where that is right.

use super::Simd;

/// `e^x`, within 2e-7 of the result; 0 below -87.3 (where `f32` turns subnormal), at most `e^88.3`.
///
/// The method and polynomial of Cephes `expf`: `x = n ln 2 + r`, a minimax polynomial for `e^r`, and `2^n`
/// through the exponent bits.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let lowest = s.splat(-87.3);
    let clamped = s.max(lowest, s.min(s.splat(88.3), x));
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-LN_2_HIGH), clamped);
    let r = s.fma(n, s.splat(-LN_2_LOW), r);
    let mut p = s.splat(POLYNOMIAL[0]);
    for &coefficient in &POLYNOMIAL[1..] {
        p = s.fma(p, r, s.splat(coefficient));
    }
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    s.select_less(x, lowest, s.splat(0.0), s.mul(p, s.power_of_two(n)))
}

/// `ln 2` in two parts, the first short enough that `n` times it is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
