//! Which blocks of the KV pool belong to whom.
//!
//! Pure bookkeeping over numbered blocks: reference counts, copy-on-write, a tree of cached prefixes and their
//! eviction. Knows no tensors; `kv` stores what the numbers name, and the scheduler decides who gets how many.

mod prefix;
mod store;
mod table;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use store::{BlockStore, OutOfBlocks};
pub use table::BlockTable;

/// Tokens of one block.
pub const BLOCK_TOKENS: usize = 32;

/// Names a block of the pool: `0..BlockStore::total()`.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    bytemuck::Pod,
    bytemuck::Zeroable,
    Serialize,
    Deserialize,
)]
#[repr(transparent)]
pub struct BlockId(pub u32);

/// Contents to be copied before a step writes: the target replaces a block that others still read.
///
/// Copies of a step are done in the order they were asked for: the target of one may have been the source of
/// an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCopy {
    /// Block to read.
    pub from: BlockId,
    /// Block to write.
    pub to: BlockId,
    /// Leading tokens that matter.
    pub tokens: usize,
}

/// Blocks that hold `tokens` tokens.
pub fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}
