//! Rows of a pool that lies token by token: which a sequence's tokens have, and what is done to them.

use std::ops::Range;

use mlxcel_mlx_bridge::{Array, Error, ErrorKind, Result};

use crate::blocks::{BLOCK_TOKENS, BlockId};
use crate::decoder::length;
use crate::schedule::{Span, StepPlan};

/// Blocks the pool must have for `plan`, whose spans must have room for their tokens; it may have `most`.
pub(super) fn blocks_of(plan: &StepPlan, most: usize) -> Result<usize> {
    let named = plan.spans.iter().flat_map(|span| span.blocks.iter());
    let copied = plan.copies.iter().flat_map(|copy| [&copy.from, &copy.to]);
    let blocks = named.chain(copied).map(|block| block.0 as usize + 1).max().unwrap_or(0);
    if blocks > most {
        return Err(defect(&format!("a step names block {}, the pool has {most}", blocks - 1)));
    }
    if let Some(short) = plan.spans.iter().find(|s| s.blocks.len() * BLOCK_TOKENS < tokens(s).end) {
        return Err(defect(&format!("sequence {} has too few blocks", short.sequence.0)));
    }
    Ok(blocks)
}

/// For each copy of `plan` the rows it reads, u32 `[rows]`, and those it writes, u32 `[rows, 1, 1]`.
pub(super) fn copies_of(plan: &StepPlan) -> Result<Vec<[Array; 2]>> {
    let copies = plan.copies.iter().map(|copy| {
        let rows = |block| indices((0..copy.tokens).map(|token| row(&[block], token)));
        Ok([rows(copy.from)?, rows(copy.to)?.expand_dims(&[1, 2])?])
    });
    copies.collect()
}

/// Positions of a span's tokens.
pub(super) fn tokens(span: &Span) -> Range<usize> {
    span.start..span.start + span.tokens.len()
}

/// The row of the pool that holds a token.
pub(super) fn row(blocks: &[BlockId], token: usize) -> u32 {
    let block = blocks.get(token / BLOCK_TOKENS).map_or(0, |block| block.0);
    block * BLOCK_TOKENS as u32 + (token % BLOCK_TOKENS) as u32
}

pub(super) fn indices(rows: impl Iterator<Item = u32>) -> Result<Array> {
    let rows: Vec<u32> = rows.collect();
    Array::from_slice(&rows, &[length(rows.len())])
}

/// One side with room for `needed` blocks: at least doubled where it is too small, at most `most`.
pub(super) fn grown(side: Option<Array>, like: &Array, needed: usize, most: usize) -> Result<Array> {
    let held = side.as_ref().map_or(0, |side| side.shape()[0] as usize / BLOCK_TOKENS);
    if let Some(side) = side.as_ref().filter(|_| needed <= held) {
        return Ok(side.clone());
    }
    let blocks = needed.max(2 * held).max(FIRST_BLOCKS).min(most.max(needed));
    let added = [length((blocks - held) * BLOCK_TOKENS), like.shape()[1], like.shape()[2]];
    let zeros = Array::zeros(&added, like.dtype())?;
    match &side {
        Some(side) => Array::concatenate(&[side, &zeros], 0),
        None => Ok(zeros),
    }
}

/// Rows of `x`, `[tokens, heads, head_dim]`.
pub(super) fn part(x: &Array, rows: &Range<usize>) -> Result<Array> {
    let shape = x.shape();
    if rows.len() == shape[0] as usize {
        return Ok(x.clone());
    }
    x.slice(&[length(rows.start), 0, 0], &[length(rows.end), shape[1], shape[2]])
}

/// `side` with `new`, `[tokens, kv_heads, head_dim]`, at `rows`, `[tokens, 1, 1]`.
pub(super) fn put_rows(side: &Array, rows: &Array, new: &Array) -> Result<Array> {
    side.put_along_axis(&rows.broadcast_to(new.shape())?, new, 0)
}

/// A caller broke the cache's contract.
pub(super) fn defect(message: &str) -> Error {
    Error { op: "attend", kind: ErrorKind::Argument, operands: String::new(), message: message.to_owned() }
}

/// Blocks of a pool when it is first used.
const FIRST_BLOCKS: usize = 16;
