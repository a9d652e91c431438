//! The memory attention reads: pools of fixed-size blocks, and how rows get into them.
//!
//! A block holds a fixed number of consecutive tokens of one sequence, head-major, so that any range of its heads is
//! contiguous. Owns no pool and gives out no blocks: the caller says which block follows which.

use std::ops::Range;

use crate::error::{ShapeError, expect_len};

/// Tokens of a block.
pub const KV_BLOCK_TOKENS: usize = 32;

/// Sizes of one side, keys or values, of a pool: `[blocks, kv_heads, KV_BLOCK_TOKENS, head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Blocks of the pool.
    pub blocks: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
}

/// Both sides of a pool, to be read.
#[derive(Debug, Clone, Copy)]
pub struct KvPool<'a> {
    /// Sizes of each side.
    pub shape: KvShape,
    /// Keys, rotated as the queries are.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
}

/// Where a sequence's tokens lie in a pool.
#[derive(Debug, Clone, Copy)]
pub struct KvSpan<'a> {
    /// The sequence's blocks: token `t` is in `blocks[t / KV_BLOCK_TOKENS]`.
    pub blocks: &'a [u32],
    /// The first token meant.
    pub start: usize,
}

/// Writes `rows`, `[tokens, kv_heads, head_dim]`, to one side of a pool as the tokens from `to.start` on.
///
/// Called once for keys and once for values.
///
/// # Errors
/// [`ShapeError`] when a length disagrees, a block is outside the pool or the span has no room; the pool is then
/// untouched.
pub fn write_kv(rows: &[f32], to: KvSpan<'_>, shape: &KvShape, side: &mut [f32]) -> Result<(), ShapeError> {
    let d = shape.head_dim;
    shape.check("pool", side.len())?;
    let width = shape.kv_heads * d;
    let tokens = rows.len() / width.max(1);
    expect_len("new rows", rows.len(), &[tokens, width])?;
    shape.check_table(to.blocks, to.start.saturating_add(tokens))?;
    for (token, row) in (to.start..).zip(rows.chunks_exact(width.max(1))) {
        let block = to.blocks[token / KV_BLOCK_TOKENS] as usize;
        for (head, values) in row.chunks_exact(d).enumerate() {
            let at = shape.line(block, head, token % KV_BLOCK_TOKENS);
            side[at..at + d].copy_from_slice(values);
        }
    }
    Ok(())
}

/// Copies the first `tokens` tokens of block `from` to block `to`, on one side of a pool.
///
/// # Errors
/// [`ShapeError`] when a length disagrees or a block is outside the pool; the pool is then untouched.
pub fn copy_kv(
    [from, to]: [u32; 2],
    tokens: usize,
    shape: &KvShape,
    side: &mut [f32],
) -> Result<(), ShapeError> {
    shape.check("pool", side.len())?;
    shape.check_table(&[from, to], tokens)?;
    if tokens > KV_BLOCK_TOKENS {
        let (what, most) = ("tokens to copy", KV_BLOCK_TOKENS);
        return Err(ShapeError::Bounds { what, least: 0, most, found: tokens });
    }
    for head in 0..shape.kv_heads {
        let source = shape.line(from as usize, head, 0);
        side.copy_within(source..source + tokens * shape.head_dim, shape.line(to as usize, head, 0));
    }
    Ok(())
}

impl KvShape {
    /// Values of one side.
    pub fn side_len(&self) -> usize {
        self.blocks * self.kv_heads * KV_BLOCK_TOKENS * self.head_dim
    }

    /// Where a token of a block's head begins.
    fn line(&self, block: usize, head: usize, token: usize) -> usize {
        ((block * self.kv_heads + head) * KV_BLOCK_TOKENS + token) * self.head_dim
    }

    pub(super) fn check(&self, what: &'static str, len: usize) -> Result<(), ShapeError> {
        expect_len(what, len, &[self.blocks, self.kv_heads, KV_BLOCK_TOKENS, self.head_dim])
    }

    /// Checks that `table` is of blocks of this pool with room for `tokens` tokens.
    pub(super) fn check_table(&self, table: &[u32], tokens: usize) -> Result<(), ShapeError> {
        let most = table.len() * KV_BLOCK_TOKENS;
        if tokens > most {
            return Err(ShapeError::Bounds { what: "tokens of a sequence", least: 0, most, found: tokens });
        }
        match table.iter().find(|&&block| block as usize >= self.blocks) {
            Some(&block) => Err(ShapeError::Row { id: block as usize, rows: self.blocks }),
            None => Ok(()),
        }
    }
}

/// Keys and values of consecutive tokens of one head, within one block.
#[derive(Clone, Copy, Default)]
pub(super) struct Part<'a> {
    pub(super) tokens: usize,
    /// `[tokens, head_dim]`.
    pub(super) keys: &'a [f32],
    /// `[tokens, head_dim]`.
    pub(super) values: &'a [f32],
}

/// Tokens the kernels take at a time, aligned: whole blocks, and a multiple of the lanes of every instruction set.
pub(super) const CHUNK: usize = 64;
/// Blocks of a chunk.
pub(super) const PARTS: usize = CHUNK / KV_BLOCK_TOKENS;

impl<'a> KvPool<'a> {
    /// One head's `tokens`, which lie in one chunk. Parts beyond them are empty.
    pub(super) fn parts(&self, blocks: &[u32], kv_head: usize, tokens: Range<usize>) -> [Part<'a>; PARTS] {
        let (mut parts, mut first) = ([Part::default(); PARTS], tokens.start);
        for part in &mut parts {
            let end = tokens.end.min((first / KV_BLOCK_TOKENS + 1) * KV_BLOCK_TOKENS);
            if first < end {
                let block = blocks[first / KV_BLOCK_TOKENS] as usize;
                let start = self.shape.line(block, kv_head, first % KV_BLOCK_TOKENS);
                let lines = start..start + (end - first) * self.shape.head_dim;
                *part = Part {
                    tokens: end - first,
                    keys: &self.keys[lines.clone()],
                    values: &self.values[lines],
                };
                first = end;
            }
        }
        parts
    }
}

/// `tokens` cut at multiples of [`CHUNK`].
pub(super) fn chunks(tokens: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut first = tokens.start;
    std::iter::from_fn(move || {
        let chunk = first..tokens.end.min((first / CHUNK + 1) * CHUNK);
        first = chunk.end;
        (!chunk.is_empty()).then_some(chunk)
    })
}
