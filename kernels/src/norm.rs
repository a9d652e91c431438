//! Root-mean-square normalisation, and the residual additions before it.
//!
//! Sums in `f32` over lanes, as many partial sums as a vector has. Knows no residual stream but the one it is
//! asked to add to: what a row is, a token or one head of it, the caller decides.

use crate::error::{ShapeError, expect_len};
use crate::memory::Disjoint;
use crate::pool::pool;
use crate::simd::{Kernel, Level, Simd, dispatch};

/// `out = x / sqrt(mean(x^2) + eps) * weight`, each row of `x`, `[rows, d]`, by itself; `weight` is `[d]`.
///
/// For a norm per head, rows are tokens times heads.
///
/// # Errors
/// [`ShapeError`] when a length disagrees.
pub fn rms_norm(x: &[f32], rows: usize, weight: &[f32], eps: f32, out: &mut [f32]) -> Result<(), ShapeError> {
    expect_len("input", x.len(), &[rows, weight.len()])?;
    expect_len("output", out.len(), &[rows, weight.len()])?;
    let d = weight.len().max(1);
    let (level, parts) = (Level::current(), Disjoint::new(out));
    each_block(rows, d, |range| {
        // SAFETY: blocks do not overlap.
        let out = unsafe { parts.part(range.clone()) };
        let rows = x[range].chunks_exact(d).zip(out.chunks_exact_mut(d));
        rows.for_each(|(x, out)| dispatch(level, Norm { x, weight, eps, out }));
    });
    Ok(())
}

/// `residual += delta`, then `out = rms_norm(residual)`; all `[rows, d]`.
///
/// # Errors
/// [`ShapeError`] when a length disagrees.
#[expect(clippy::too_many_arguments, reason = "as `rms_norm`, with one operand more")]
pub fn add_rms_norm(
    residual: &mut [f32],
    delta: &[f32],
    rows: usize,
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    expect_len("residual", residual.len(), &[rows, weight.len()])?;
    expect_len("delta", delta.len(), &[rows, weight.len()])?;
    expect_len("output", out.len(), &[rows, weight.len()])?;
    let d = weight.len().max(1);
    let level = Level::current();
    let (residuals, outs) = (Disjoint::new(residual), Disjoint::new(out));
    each_block(rows, d, |range| {
        // SAFETY: blocks do not overlap.
        let (residual, out) = unsafe { (residuals.part(range.clone()), outs.part(range.clone())) };
        let rows =
            residual.chunks_exact_mut(d).zip(delta[range].chunks_exact(d)).zip(out.chunks_exact_mut(d));
        for ((x, delta), out) in rows {
            dispatch(level, Add { x, delta });
            dispatch(level, Norm { x, weight, eps, out });
        }
    });
    Ok(())
}

/// `residual += delta`; both of one length.
///
/// # Errors
/// [`ShapeError`] when the lengths differ.
pub fn add(residual: &mut [f32], delta: &[f32]) -> Result<(), ShapeError> {
    expect_len("delta", delta.len(), &[residual.len()])?;
    let (level, len, residuals) = (Level::current(), residual.len(), Disjoint::new(residual));
    each_block(len, 1, |range| {
        // SAFETY: blocks do not overlap.
        let x = unsafe { residuals.part(range.clone()) };
        dispatch(level, Add { x, delta: &delta[range] });
    });
    Ok(())
}

/// Calls `block` with ranges that cover `rows` rows of `d` values, in parallel where that pays.
fn each_block(rows: usize, d: usize, block: impl Fn(std::ops::Range<usize>) + Sync) {
    let per_task = (VALUES_PER_TASK / d).max(1);
    pool().parallel_for(rows.div_ceil(per_task), |task| {
        block(task * per_task * d..rows.min((task + 1) * per_task) * d);
    });
}

/// Less than this one thread does faster than two can share.
const VALUES_PER_TASK: usize = 16_384;

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.x.len();
        assert!(self.weight.len() == d && self.out.len() == d, "rows of one length");
        let (full, rest) = (d / S::LANES * S::LANES, d % S::LANES);
        let (x, weight, out) = (self.x.as_ptr(), self.weight.as_ptr(), self.out.as_mut_ptr());
        // SAFETY: all three hold `d = full + rest` values.
        unsafe {
            let mut squares = s.splat(0.0);
            for at in (0..full).step_by(S::LANES) {
                let x = s.load(x.add(at));
                squares = s.fma(x, x, squares);
            }
            if rest > 0 {
                let x = s.load_first(x.add(full), rest);
                squares = s.fma(x, x, squares);
            }
            let factor = s.splat(1.0 / (s.sum(squares) / d as f32 + self.eps).sqrt());
            for at in (0..full).step_by(S::LANES) {
                let scaled = s.mul(s.load(x.add(at)), factor);
                s.store(out.add(at), s.mul(scaled, s.load(weight.add(at))));
            }
            if rest > 0 {
                let scaled = s.mul(s.load_first(x.add(full), rest), factor);
                s.store_first(out.add(full), rest, s.mul(scaled, s.load_first(weight.add(full), rest)));
            }
        }
    }
}

struct Add<'a> {
    x: &'a mut [f32],
    delta: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (x, delta) in self.x.iter_mut().zip(self.delta) {
            *x += delta;
        }
    }
}
