//! Gated short convolution: each channel by itself, over the last few positions (LFM2, Liquid AI 2025).
//!
//! Positions are summed from the oldest to the newest, so that a row is the same bits whatever rows it is computed with.
//! Knows no sequences: the caller puts what precedes the rows before them, and keeps what is to precede the next.

use crate::error::{ShapeError, expect_len};
use crate::memory::Disjoint;
use crate::pool::pool;
use crate::simd::{Kernel, Level, Simd, dispatch};

/// The weights of a convolution over `taps` positions of `channels` channels.
#[derive(Debug, Clone, Copy)]
pub struct ShortConv<'a> {
    /// Channels.
    pub channels: usize,
    /// Positions, at least one; the newest is the row itself.
    pub taps: usize,
    /// `[taps, channels]`, the oldest position first.
    pub weight: &'a [f32],
    /// `[channels]`.
    pub bias: Option<&'a [f32]>,
}

/// What a row gates its convolution with: `[rows, channels]` each.
#[derive(Debug, Clone, Copy)]
pub struct Gates<'a> {
    /// Multiplies the value before the convolution.
    pub input: &'a [f32],
    /// Multiplies the result.
    pub output: &'a [f32],
}

/// `out = output * (conv(input * value) + bias)`, `[rows, channels]`, of consecutive positions of a sequence.
///
/// `inputs`, `[taps - 1 + rows, channels]`, begins with the gated values of the positions before the first row, zeros
/// before the first position; the others are written: the last `taps - 1` precede what follows.
///
/// # Errors
/// [`ShapeError`] when a length disagrees, or there are no taps.
pub fn short_conv(
    conv: &ShortConv<'_>,
    gates: Gates<'_>,
    value: &[f32],
    inputs: &mut [f32],
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let ShortConv { channels, taps, weight, bias } = *conv;
    if taps == 0 {
        return Err(ShapeError::Bounds { what: "taps", least: 1, most: usize::MAX, found: 0 });
    }
    let rows = value.len() / channels.max(1);
    for (what, found) in [("value", value), ("input gate", gates.input), ("output gate", gates.output)] {
        expect_len(what, found.len(), &[rows, channels])?;
    }
    expect_len("output", out.len(), &[rows, channels])?;
    expect_len("inputs", inputs.len(), &[taps - 1 + rows, channels])?;
    expect_len("weight", weight.len(), &[taps, channels])?;
    bias.map_or(Ok(()), |bias| expect_len("bias", bias.len(), &[channels]))?;
    let level = Level::current();
    let new = &mut inputs[(taps - 1) * channels..];
    dispatch(level, Multiply { a: gates.input, b: value, out: new });
    let (inputs, parts) = (&*inputs, Disjoint::new(out));
    let per_task = (VALUES_PER_TASK / channels.max(1)).max(1);
    pool().parallel_for(rows.div_ceil(per_task), |task| {
        for row in task * per_task..rows.min((task + 1) * per_task) {
            let range = row * channels..(row + 1) * channels;
            // SAFETY: tasks have different rows.
            let out = unsafe { parts.part(range.clone()) };
            let seen = &inputs[row * channels..(row + taps) * channels];
            dispatch(level, Row { weight, bias, seen, gate: &gates.output[range], out });
        }
    });
    Ok(())
}

/// Less than this one thread does faster than two can share.
const VALUES_PER_TASK: usize = 16_384;

struct Multiply<'a> {
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for ((out, a), b) in self.out.iter_mut().zip(self.a).zip(self.b) {
            *out = a * b;
        }
    }
}

struct Row<'a> {
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    /// `[taps, channels]`.
    seen: &'a [f32],
    gate: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let channels = self.out.len();
        match self.bias {
            Some(bias) => self.out.copy_from_slice(bias),
            None => self.out.fill(0.0),
        }
        for (weight, seen) in self.weight.chunks_exact(channels).zip(self.seen.chunks_exact(channels)) {
            for ((out, weight), seen) in self.out.iter_mut().zip(weight).zip(seen) {
                *out += weight * seen;
            }
        }
        for (out, gate) in self.out.iter_mut().zip(self.gate) {
            *out *= gate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows and channels of small numbers that are all different.
    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 37 + seed * 101) % 64) as f32 / 32.0 - 1.0).collect()
    }

    #[test]
    fn rows_are_the_same_bits_at_once_and_one_by_one_and_what_the_formula_says() {
        let (rows, channels, taps) = (9, 21, 3);
        let [weight, bias] = [values(taps * channels, 1), values(channels, 2)];
        let [input, output, value] = [3, 4, 5].map(|seed| values(rows * channels, seed));
        let conv = ShortConv { channels, taps, weight: &weight, bias: Some(&bias) };
        let mut inputs = vec![0.0; (taps - 1 + rows) * channels];
        let mut at_once = vec![0.0; rows * channels];
        let gates = Gates { input: &input, output: &output };
        short_conv(&conv, gates, &value, &mut inputs, &mut at_once).expect("shapes agree");
        let mut held = vec![0.0; (taps - 1) * channels];
        for row in 0..rows {
            let own = row * channels..(row + 1) * channels;
            let mut inputs = [held.as_slice(), &vec![0.0; channels]].concat();
            let (gates, mut out) =
                (Gates { input: &input[own.clone()], output: &output[own.clone()] }, vec![0.0; channels]);
            short_conv(&conv, gates, &value[own.clone()], &mut inputs, &mut out).expect("shapes agree");
            assert_eq!(out, at_once[own.clone()]);
            held = inputs[channels..].to_vec();
            for channel in 0..channels {
                let seen = |back: usize| {
                    row.checked_sub(back)
                        .map_or(0.0, |at| input[at * channels + channel] * value[at * channels + channel])
                };
                let sum: f32 =
                    (0..taps).map(|tap| weight[tap * channels + channel] * seen(taps - 1 - tap)).sum();
                let expected = output[row * channels + channel] * (sum + bias[channel]);
                assert!((out[channel] - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        let conv = ShortConv { channels: 4, taps: 3, weight: &[0.0; 12], bias: None };
        let gates = Gates { input: &[0.0; 4], output: &[0.0; 4] };
        let refused = short_conv(&conv, gates, &[0.0; 4], &mut [0.0; 8], &mut [0.0; 4]);
        assert_eq!(refused, Err(ShapeError::Length { what: "inputs", expected: 12, found: 8 }));
    }
}
