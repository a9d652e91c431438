//! Causal attention of a ragged batch over contiguous caches.
//!
//! Every sequence brings its own queries, keys and values; softmax is computed online, so no score matrix is
//! stored. Knows no positions but those that follow from a cache's length; who keeps the caches, and
//! rotates what goes into them, is the caller.

mod append;
mod few;
mod plan;
mod tile;

pub use append::{CacheShape, append_kv};

use std::ops::Range;

use crate::error::{ShapeError, expect_len, product};
use crate::memory::{Disjoint, Scratch};
use crate::pool::pool;
use crate::simd::{Level, dispatch};

/// Sizes and rules of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Query heads, a multiple of `kv_heads`; head `h` reads key head `h * kv_heads / heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Factor on scores, commonly `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A query at position `p` sees keys after position `p - window` only.
    pub window: Option<usize>,
}

/// A sequence's queries and its cache, which already holds the queries' own keys and values.
#[derive(Debug, Clone)]
pub struct SequenceKv<'a> {
    /// Rows of the queries in the batch: the last `queries.len()` of the `length` tokens.
    pub queries: Range<usize>,
    /// `[kv_heads, capacity, head_dim]`.
    pub keys: &'a [f32],
    /// `[kv_heads, capacity, head_dim]`.
    pub values: &'a [f32],
    /// Tokens there is room for.
    pub capacity: usize,
    /// Tokens held, the queries' included.
    pub length: usize,
}

/// Attends with `q`, `[tokens, heads, head_dim]`, writing `out` of the same shape.
///
/// Rows of `out` that no sequence names stay as they are.
///
/// # Errors
/// [`ShapeError`] when a size disagrees, or two sequences name the same row.
pub fn attention(
    q: &[f32],
    sequences: &[SequenceKv<'_>],
    shape: &AttentionShape,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    check(q, sequences, shape, out.len())?;
    if shape.heads == 0 || shape.head_dim == 0 {
        return Ok(());
    }
    let level = Level::current();
    let plan = plan::Plan::new(sequences, shape, pool().threads());
    let mut partial = Scratch::new(plan.partial_len);
    let partials = Disjoint::new(&mut partial);
    let outs = Disjoint::new(out);
    pool().parallel_for(plan.tasks.len(), |index| match &plan.tasks[index] {
        plan::Task::Few(task) => dispatch(
            level,
            few::Attend { shape, sequence: &sequences[task.sequence], q, task, partials: &partials },
        ),
        plan::Task::Tile(task) => {
            dispatch(level, tile::Attend { shape, sequence: &sequences[task.sequence], q, task, out: &outs })
        }
    });
    pool().parallel_for(plan.merges.len(), |index| {
        let merge = &plan.merges[index];
        let sequence = &sequences[merge.sequence];
        dispatch(level, few::Join { shape, sequence, merge, partials: &partials, out: &outs });
    });
    Ok(())
}

impl AttentionShape {
    /// Query heads a key head serves.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Where in `[tokens, heads, head_dim]` the `row`th query of `kv_head` begins; queries of a key head are
    /// counted token by token, its heads together.
    fn offset(&self, sequence: &SequenceKv<'_>, kv_head: usize, row: usize) -> usize {
        let token = sequence.queries.start + row / self.group();
        let head = kv_head * self.group() + row % self.group();
        (token * self.heads + head) * self.head_dim
    }

    /// The position of that query.
    fn position(&self, sequence: &SequenceKv<'_>, row: usize) -> usize {
        sequence.length - sequence.queries.len() + row / self.group()
    }

    /// The first position a query at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

fn check(
    q: &[f32],
    sequences: &[SequenceKv<'_>],
    shape: &AttentionShape,
    out_len: usize,
) -> Result<(), ShapeError> {
    if shape.kv_heads == 0 || !shape.heads.is_multiple_of(shape.kv_heads) {
        return Err(ShapeError::Multiple { what: "heads", of: shape.kv_heads, found: shape.heads });
    }
    let width = product("queries", &[shape.heads, shape.head_dim])?;
    let tokens = q.len() / width.max(1);
    expect_len("queries", q.len(), &[tokens, width])?;
    expect_len("output", out_len, &[q.len()])?;
    if shape.window == Some(0) {
        return Err(ShapeError::Bounds { what: "window", least: 1, most: usize::MAX, found: 0 });
    }
    for sequence in sequences {
        let (queries, length) = (&sequence.queries, sequence.length);
        if queries.start > queries.end || queries.end > tokens {
            return Err(ShapeError::Row { id: queries.end, rows: tokens });
        }
        expect_len("keys", sequence.keys.len(), &[shape.kv_heads, sequence.capacity, shape.head_dim])?;
        expect_len("values", sequence.values.len(), &[shape.kv_heads, sequence.capacity, shape.head_dim])?;
        let (least, most) = (queries.len(), sequence.capacity);
        if length < least || length > most {
            return Err(ShapeError::Bounds { what: "cache length", least, most, found: length });
        }
    }
    let mut ranges: Vec<_> = sequences.iter().map(|s| &s.queries).filter(|r| !r.is_empty()).collect();
    ranges.sort_by_key(|range| range.start);
    match ranges.windows(2).find(|pair| pair[0].end > pair[1].start) {
        Some(pair) => Err(ShapeError::Bounds {
            what: "start of the next sequence's queries",
            least: pair[0].end,
            most: tokens,
            found: pair[1].start,
        }),
        None => Ok(()),
    }
}
