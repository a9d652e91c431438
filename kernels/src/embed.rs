//! Rows of a table by number.
//!
//! Gathers and dequantises only the rows asked for. Knows no vocabulary: which ids a step has, and that a tied head
//! multiplies with the same table, the caller decides.

use crate::dequantize::Widen;
use crate::error::{ShapeError, expect_len};
use crate::memory::Disjoint;
use crate::pool::pool;
use crate::simd::{Level, dispatch};
use crate::weight::Weight;

/// Writes row `ids[i]` of `table`, `[n, k]`, to row `i` of `out`, `[ids, k]`, as `f32`.
///
/// # Errors
/// [`ShapeError`] when `table` is not `[n, k]`, an id is not below `n`, or `out` has another length.
pub fn embed(ids: &[u32], table: &Weight<'_>, n: usize, k: usize, out: &mut [f32]) -> Result<(), ShapeError> {
    table.check(n, k)?;
    expect_len("output", out.len(), &[ids.len(), k])?;
    if let Some(&id) = ids.iter().find(|&&id| id as usize >= n) {
        return Err(ShapeError::Row { id: id as usize, rows: n });
    }
    let (level, parts) = (Level::current(), Disjoint::new(out));
    pool().parallel_for(ids.len().div_ceil(IDS_PER_TASK), |task| {
        let first = task * IDS_PER_TASK;
        for (index, &id) in ids.iter().enumerate().skip(first).take(IDS_PER_TASK) {
            // SAFETY: each row of the output belongs to one id, and each id to one task.
            let out = unsafe { parts.part(index * k..(index + 1) * k) };
            dispatch(level, Widen { weight: *table, k, row: id as usize, columns: 0..k, out });
        }
    });
    Ok(())
}

/// Copying fewer rows than this costs less than sharing the work.
const IDS_PER_TASK: usize = 32;
