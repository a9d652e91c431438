//! The place of the largest value of each row.
//!
//! One pass finds the value, in vectors, and a second its place. Knows nothing of what a row means: that it
//! holds logits, and that greedy sampling wants this, is the caller's business.

use crate::error::{ShapeError, expect_len};

/// The index of the largest value of each row of `x`, `[rows, n]`; the first where several are equal, and
/// NaN never wins over a number.
///
/// # Errors
/// [`ShapeError`] when `x` is not `[rows, n]`, `n` is 0 or does not fit `u32`.
pub fn argmax(x: &[f32], rows: usize, n: usize) -> Result<Vec<u32>, ShapeError> {
    expect_len("input", x.len(), &[rows, n])?;
    if n == 0 || u32::try_from(n).is_err() {
        return Err(ShapeError::Bounds { what: "row length", least: 1, most: u32::MAX as usize, found: n });
    }
    Ok(x.chunks_exact(n).map(largest).collect())
}

fn largest(row: &[f32]) -> u32 {
    // The value first and its place second: the first loop runs in vectors.
    let mut best = [f32::NEG_INFINITY; 16];
    for part in row.chunks(16) {
        for (best, &value) in best.iter_mut().zip(part) {
            *best = if value > *best { value } else { *best };
        }
    }
    let best = best.into_iter().fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|&value| value == best).unwrap_or(0) as u32
}
