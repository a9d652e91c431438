//! The memory attention reads: pools of fixed-size blocks, and how rows get into them.
//!
//! A block holds a fixed number of consecutive tokens of one sequence, head-major, so that any range of its heads is
//! contiguous. Gives out no blocks: the caller says which block follows which. How a row becomes bytes is `storage`'s.

use std::ops::Range;

use super::storage::{KvDtype, Rows};
use crate::error::{ShapeError, expect_len};
use crate::simd::{Portable, Simd};

/// Tokens of a block.
pub const KV_BLOCK_TOKENS: usize = 32;

/// Sizes of a pool: `[blocks, kv_heads, KV_BLOCK_TOKENS, head_dim]` values a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Blocks of the pool.
    pub blocks: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
}

/// One side, keys or values, of a pool, with its memory.
///
/// A block's head is the bytes of its tokens' numbers, `[KV_BLOCK_TOKENS, value_bytes]`, then their steps and least
/// values, where the dtype has any.
#[derive(Debug, Clone)]
pub struct KvSide {
    shape: KvShape,
    dtype: KvDtype,
    /// Words, so that floats are aligned.
    words: Vec<u32>,
}

/// Both sides of a pool, to be read. They have the same shape, and each its dtype.
#[derive(Debug, Clone, Copy)]
pub struct KvPool<'a> {
    /// Keys, rotated as the queries are.
    pub keys: &'a KvSide,
    /// Values.
    pub values: &'a KvSide,
}

/// Where a sequence's tokens lie in a pool.
#[derive(Debug, Clone, Copy)]
pub struct KvSpan<'a> {
    /// The sequence's blocks: token `t` is in `blocks[t / KV_BLOCK_TOKENS]`.
    pub blocks: &'a [u32],
    /// The first token meant.
    pub start: usize,
}

impl KvSide {
    /// A side of zeros. The system takes memory for a page when it is first written.
    pub fn new(shape: KvShape, dtype: KvDtype) -> Self {
        let bytes = shape.blocks * shape.kv_heads * KV_BLOCK_TOKENS * dtype.row_bytes(shape.head_dim);
        Self { shape, dtype, words: vec![0; bytes / 4] }
    }

    /// Its sizes.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Writes `rows`, `[tokens, kv_heads, head_dim]`, as the tokens from `to.start` on.
    ///
    /// # Errors
    /// [`ShapeError`] when a length disagrees, a block is outside the pool or the span has no room; the pool is then
    /// untouched.
    pub fn write(&mut self, rows: &[f32], to: KvSpan<'_>) -> Result<(), ShapeError> {
        let d = self.shape.head_dim;
        let width = self.shape.kv_heads * d;
        let tokens = rows.len() / width.max(1);
        expect_len("new rows", rows.len(), &[tokens, width])?;
        self.shape.check_table(to.blocks, to.start.saturating_add(tokens))?;
        for (token, row) in (to.start..).zip(rows.chunks_exact(width.max(1))) {
            let block = to.blocks[token / KV_BLOCK_TOKENS] as usize;
            for (head, values) in row.chunks_exact(d).enumerate() {
                let place = self.place(block, head, token % KV_BLOCK_TOKENS, 1);
                let plane = &mut bytemuck::cast_slice_mut(&mut self.words)[place.plane];
                let (numbers, scales) = plane.split_at_mut(place.scales_from);
                let scales = &mut bytemuck::cast_slice_mut(scales)[place.scales];
                self.dtype.encode(values, &mut numbers[place.numbers], scales);
            }
        }
        Ok(())
    }

    /// Copies block `from` to block `to`.
    ///
    /// # Errors
    /// [`ShapeError`] when a block is outside the pool, which is then untouched.
    pub fn copy(&mut self, [from, to]: [u32; 2]) -> Result<(), ShapeError> {
        self.shape.check_table(&[from, to], 0)?;
        let words = self.shape.kv_heads * self.plane_bytes() / 4;
        let source = from as usize * words;
        self.words.copy_within(source..source + words, to as usize * words);
        Ok(())
    }

    /// A block's bytes: its heads one after the other.
    ///
    /// # Errors
    /// [`ShapeError`] when the pool has no such block.
    pub fn block(&self, block: u32) -> Result<&[u8], ShapeError> {
        self.shape.check_table(&[block], 0)?;
        let words = self.shape.kv_heads * self.plane_bytes() / 4;
        let first = block as usize * words;
        Ok(bytemuck::cast_slice(&self.words[first..first + words]))
    }

    /// The same, to be written: with the bytes of a block of another pool of the same heads and dtype.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn block_mut(&mut self, block: u32) -> Result<&mut [u8], ShapeError> {
        self.shape.check_table(&[block], 0)?;
        let words = self.shape.kv_heads * self.plane_bytes() / 4;
        let first = block as usize * words;
        Ok(bytemuck::cast_slice_mut(&mut self.words[first..first + words]))
    }

    /// The values of one token's head, as attention reads them, but for the last digit of what is made of codes.
    ///
    /// # Errors
    /// [`ShapeError`] when the pool has no such block, head or token.
    pub fn values(&self, block: u32, head: usize, token: usize) -> Result<Vec<f32>, ShapeError> {
        self.shape.check_table(&[block], token + 1)?;
        if head >= self.shape.kv_heads {
            return Err(ShapeError::Row { id: head, rows: self.shape.kv_heads });
        }
        let mut room = vec![0.0; self.shape.head_dim];
        Ok(self.lines(Portable, (block as usize, head), token..token + 1, &mut room).0.to_vec())
    }

    /// Bytes of one head of a block.
    fn plane_bytes(&self) -> usize {
        KV_BLOCK_TOKENS * self.dtype.row_bytes(self.shape.head_dim)
    }

    /// Where `count` tokens of a block's head are.
    #[inline(always)]
    fn place(&self, block: usize, head: usize, token: usize, count: usize) -> Place {
        let (value_bytes, scales) =
            (self.dtype.value_bytes(self.shape.head_dim), self.dtype.scales(self.shape.head_dim));
        let plane = (block * self.shape.kv_heads + head) * self.plane_bytes();
        Place {
            plane: plane..plane + self.plane_bytes(),
            numbers: token * value_bytes..(token + count) * value_bytes,
            scales_from: KV_BLOCK_TOKENS * value_bytes,
            scales: token * scales..(token + count) * scales,
        }
    }

    /// The values of consecutive tokens of a block's head, `[tokens, head_dim]`, and what is left of `room`: they are
    /// put there unless they can be read where they are.
    #[inline(always)]
    fn lines<'s, S: Simd>(
        &'s self,
        s: S,
        (block, head): (usize, usize),
        tokens: Range<usize>,
        room: &'s mut [f32],
    ) -> (&'s [f32], &'s mut [f32]) {
        let place = self.place(block, head, tokens.start, tokens.len());
        let plane = &bytemuck::cast_slice::<u32, u8>(&self.words)[place.plane];
        let (numbers, scales) = plane.split_at(place.scales_from);
        let bytes = &numbers[place.numbers];
        if self.dtype == KvDtype::F32 {
            return (bytemuck::cast_slice(bytes), room);
        }
        let (lines, rest) = room.split_at_mut(tokens.len() * self.shape.head_dim);
        let rows = Rows { bytes, scales: &bytemuck::cast_slice(scales)[place.scales] };
        self.dtype.decode(s, rows, self.shape.head_dim, lines);
        (lines, rest)
    }
}

/// Where some tokens' rows are.
struct Place {
    /// Bytes of their block's head in the side.
    plane: Range<usize>,
    /// Bytes of their numbers in it.
    numbers: Range<usize>,
    /// Where in it the steps and least values begin.
    scales_from: usize,
    /// Theirs among these.
    scales: Range<usize>,
}

impl KvShape {
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
    /// Floats [`KvPool::parts`] needs room for.
    pub(super) fn room(&self) -> usize {
        let sides = [self.keys, self.values].iter().filter(|side| side.dtype != KvDtype::F32).count();
        sides * CHUNK * self.keys.shape.head_dim
    }

    /// One head's `tokens`, which lie in one chunk; what is not stored as `f32` is put into `room`, which stays in the
    /// nearest cache and serves all queries of the head. Parts beyond the tokens are empty.
    #[inline(always)]
    pub(super) fn parts<'s, S: Simd>(
        &self,
        s: S,
        (blocks, head): (&[u32], usize),
        tokens: Range<usize>,
        mut room: &'s mut [f32],
    ) -> [Part<'s>; PARTS]
    where
        'a: 's,
    {
        let (mut parts, mut first) = ([Part::default(); PARTS], tokens.start);
        for part in &mut parts {
            let end = tokens.end.min((first / KV_BLOCK_TOKENS + 1) * KV_BLOCK_TOKENS);
            if first < end {
                let block = blocks[first / KV_BLOCK_TOKENS] as usize;
                let start = first % KV_BLOCK_TOKENS;
                let lines = start..start + end - first;
                let (keys, rest) = self.keys.lines(s, (block, head), lines.clone(), room);
                let (values, rest) = self.values.lines(s, (block, head), lines, rest);
                *part = Part { tokens: end - first, keys, values };
                (first, room) = (end, rest);
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
