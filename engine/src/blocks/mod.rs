//! Which blocks of the KV pool belong to whom.
//!
//! Pure bookkeeping over numbered blocks: reference counts, copy-on-write, a tree of cached prefixes and their
//! eviction; and over numbered slots, for models whose mixers keep a state of each sequence (`states`). Knows no tensors;
//! `kv` and `state` store what the numbers name, and the scheduler decides who gets how many.

mod prefix;
mod states;
mod store;
mod table;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use states::{OutOfStates, StateLimits};
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

/// Names a slot for the state of a sequence: `0..StateLimits::slots`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateSlot(pub u32);

/// Where consecutive tokens of a sequence find its state, and where they leave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanState {
    /// Holds the state before the first of them; none at the beginning of a sequence.
    pub from: Option<StateSlot>,
    /// Is to hold the state after the last, and may be `from`.
    pub to: StateSlot,
    /// States on the way that are kept for other sequences, first to last.
    pub snapshots: Vec<Snapshot>,
}

/// A state that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// After how many tokens of the sequence.
    pub tokens: usize,
    /// Where.
    pub slot: StateSlot,
}

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
