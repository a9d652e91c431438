//! What the tests compare with: plain loops in `f64`, and a source of numbers.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::ops::Range;

use mlxcel_kernels::{Level, with_level};

/// Runs `body` once for each instruction set this CPU has.
pub(crate) fn on_every_level(body: impl Fn(Level)) {
    for &level in Level::available() {
        with_level(level, || body(level)).expect("an available level");
    }
}

/// Numbers in `range`, the same for the same seed.
pub(crate) fn uniform(seed: u64, len: usize, range: Range<f32>) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..len).map(|_| range.start + next() * (range.end - range.start)).collect()
}

/// Activations as few rows multiply them with weights in groups of `group` that are integers.
pub(crate) fn rounded_to_16_bits(x: &[f32], group: usize) -> Vec<f32> {
    let round = |group: &[f32]| {
        let largest = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let (step, per_step) = (largest / 32767.0, 32767.0 / largest);
        group.iter().map(|x| (x * per_step).round_ties_even() * step).collect::<Vec<_>>()
    };
    x.chunks(group).flat_map(round).collect()
}

/// `x W^T + bias` and, for tolerances, `|x| |W|^T + |bias|`.
pub(crate) fn linear(x: &[f32], w: &[f32], bias: Option<&[f32]>, k: usize, n: usize) -> Vec<(f64, f64)> {
    let rows = x.len() / k.max(1);
    let mut out = Vec::with_capacity(rows * n);
    for row in x.chunks_exact(k) {
        for column in 0..n {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[column]));
            let terms = row.iter().zip(&w[column * k..]).map(|(&x, &w)| f64::from(x) * f64::from(w));
            let (sum, size) = terms.fold((bias, bias.abs()), |(s, a), t| (s + t, a + t.abs()));
            out.push((sum, size));
        }
    }
    out
}

/// Fails unless each value is within `tolerance` times its size of what was expected.
#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[(f64, f64)], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    for (at, (&found, &(value, size))) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - value).abs();
        assert!(error <= tolerance * size, "{what}: value {at} is {found}, not {value} (size {size})");
    }
}
