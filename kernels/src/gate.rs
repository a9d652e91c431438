//! The gated activation of a feed-forward block.
//!
//! One pass over both halves, with an exponential of our own. Knows no layers: which products made its two
//! operands the caller decides.

use crate::error::{ShapeError, expect_len};
use crate::memory::Disjoint;
use crate::pool::pool;
use crate::simd::{Kernel, Level, Simd, dispatch, exp};

/// `out = silu(gate) * up`, element by element, with `silu(x) = x / (1 + e^-x)`.
///
/// # Errors
/// [`ShapeError`] when the lengths differ.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
    expect_len("up", up.len(), &[gate.len()])?;
    expect_len("output", out.len(), &[gate.len()])?;
    let (level, parts, len) = (Level::current(), Disjoint::new(out), gate.len());
    pool().parallel_for(len.div_ceil(VALUES_PER_TASK), |task| {
        let range = task * VALUES_PER_TASK..len.min((task + 1) * VALUES_PER_TASK);
        // SAFETY: tasks do not overlap.
        let out = unsafe { parts.part(range.clone()) };
        dispatch(level, SwiGlu { gate: &gate[range.clone()], up: &up[range], out });
    });
    Ok(())
}

/// Less than this one thread does faster than two can share.
const VALUES_PER_TASK: usize = 8192;

struct SwiGlu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.gate.len();
        assert!(self.up.len() == len && self.out.len() == len, "slices of one length");
        let (full, rest) = (len / S::LANES * S::LANES, len % S::LANES);
        let (gate, up, out) = (self.gate.as_ptr(), self.up.as_ptr(), self.out.as_mut_ptr());
        // SAFETY: all three hold `full + rest` values.
        unsafe {
            for at in (0..full).step_by(S::LANES) {
                s.store(out.add(at), gated(s, s.load(gate.add(at)), s.load(up.add(at))));
            }
            if rest > 0 {
                let (gate, up) = (s.load_first(gate.add(full), rest), s.load_first(up.add(full), rest));
                s.store_first(out.add(full), rest, gated(s, gate, up));
            }
        }
    }
}

#[inline(always)]
fn gated<S: Simd>(s: S, gate: S::F, up: S::F) -> S::F {
    let one_plus = s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), gate)));
    s.mul(s.div(gate, one_plus), up)
}
