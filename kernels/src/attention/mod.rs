//! Causal attention of a ragged batch over a pool of blocks.
//!
//! Every sequence brings its own queries and names the blocks its keys and values lie in; softmax is computed online,
//! so no score matrix is stored. Knows no positions but those that follow from a sequence's length; who gives out
//! blocks, and rotates what goes into them, is the caller.

mod cache;
mod few;
mod plan;
mod rows;
mod soft_cap;
mod storage;
mod tile;

pub use cache::{KV_BLOCK_TOKENS, KvPool, KvShape, KvSide, KvSpan};
pub use storage::{KvDtype, UnknownKvDtype};

use std::ops::Range;

use crate::error::{ShapeError, expect_len, product};
use crate::memory::{Disjoint, Scratch};
use crate::pool::pool;
use crate::simd::{Level, dispatch};

/// Sizes and rules of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape<'a> {
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
    /// Scores become `c * tanh(score / c)` before they are masked (Gemma 2).
    pub soft_cap: Option<f32>,
    /// One more logit for each query head in the denominator of its softmax, `[heads]` (gpt-oss).
    pub sinks: Option<&'a [f32]>,
}

/// A sequence's queries and its blocks, which already hold the queries' own keys and values.
#[derive(Debug, Clone)]
pub struct SequenceKv<'a> {
    /// Rows of the queries in the batch: the last `queries.len()` of the `length` tokens.
    pub queries: Range<usize>,
    /// Token `t` is in block `blocks[t / KV_BLOCK_TOKENS]` of the pool; sequences may share blocks.
    pub blocks: &'a [u32],
    /// Tokens held, the queries' included.
    pub length: usize,
}

/// Attends with `q`, `[tokens, heads, head_dim]`, writing `out` of the same shape.
///
/// Rows of `out` that no sequence names stay as they are. Few queries are cut along the keys, so that threads share
/// long contexts, many along the queries.
///
/// # Errors
/// [`ShapeError`] when a size disagrees, or two sequences name the same row.
pub fn attention(
    q: &[f32],
    kv: &KvPool<'_>,
    sequences: &[SequenceKv<'_>],
    shape: &AttentionShape<'_>,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    check(q, sequences, shape, out.len())?;
    check_pool(kv, sequences, shape)?;
    if shape.heads == 0 || shape.head_dim == 0 {
        return Ok(());
    }
    let level = Level::current();
    let plan = plan::Plan::new(sequences, shape);
    let mut partial = Scratch::new(plan.partial_len);
    let (partials, outs) = (&Disjoint::new(&mut partial), &Disjoint::new(out));
    let batch = &Batch { shape, kv, sequences, q };
    pool().parallel_for(plan.tasks.len(), |index| match &plan.tasks[index] {
        plan::Task::Few(task) => dispatch(level, few::Attend { batch, task, partials }),
        plan::Task::Tile(task) => dispatch(level, tile::Attend { batch, task, out: outs }),
    });
    pool().parallel_for(plan.merges.len(), |index| {
        dispatch(level, few::Join { batch, merge: &plan.merges[index], partials, out: outs });
    });
    Ok(())
}

/// What every task of a call reads.
struct Batch<'a> {
    shape: &'a AttentionShape<'a>,
    kv: &'a KvPool<'a>,
    sequences: &'a [SequenceKv<'a>],
    q: &'a [f32],
}

impl AttentionShape<'_> {
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

    /// The sink of that query's head.
    fn sink(&self, kv_head: usize, row: usize) -> Option<f32> {
        self.sinks.map(|sinks| sinks[kv_head * self.group() + row % self.group()])
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
    shape: &AttentionShape<'_>,
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
    if let Some(sinks) = shape.sinks {
        expect_len("sinks", sinks.len(), &[shape.heads])?;
    }
    for sequence in sequences {
        let queries = &sequence.queries;
        if queries.start > queries.end || queries.end > tokens {
            return Err(ShapeError::Row { id: queries.end, rows: tokens });
        }
        let (least, most) = (queries.len(), sequence.blocks.len() * KV_BLOCK_TOKENS);
        if sequence.length < least || sequence.length > most {
            let found = sequence.length;
            return Err(ShapeError::Bounds { what: "tokens of a sequence", least, most, found });
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

fn check_pool(
    kv: &KvPool<'_>,
    sequences: &[SequenceKv<'_>],
    shape: &AttentionShape<'_>,
) -> Result<(), ShapeError> {
    let KvShape { blocks, kv_heads, head_dim } = kv.keys.shape();
    let values = kv.values.shape();
    for (what, expected, found) in [
        ("heads of the pool", shape.kv_heads, kv_heads),
        ("head size of the pool", shape.head_dim, head_dim),
        ("blocks of the values", blocks, values.blocks),
        ("heads of the values", kv_heads, values.kv_heads),
        ("head size of the values", head_dim, values.head_dim),
    ] {
        if expected != found {
            return Err(ShapeError::Bounds { what, least: expected, most: expected, found });
        }
    }
    sequences.iter().try_for_each(|sequence| kv.keys.shape().check_table(sequence.blocks, sequence.length))
}
