//! The blocks of one sequence.

use std::sync::Arc;

use super::{BLOCK_TOKENS, BlockId, Snapshot, StateSlot};

/// A sequence's blocks, in order, and how many tokens they hold or have room for.
///
/// Made, changed and taken back by a [`BlockStore`](super::BlockStore) only: each block of a table counts as one
/// reference there, so a table that is dropped instead of released leaks its blocks.
#[derive(Debug, Default)]
#[must_use = "release it, or its blocks are lost"]
pub struct BlockTable {
    pub(super) blocks: Vec<BlockId>,
    pub(super) tokens: usize,
    /// Nothing in a store without states.
    pub(super) state: TableState,
    /// `blocks` as steps share it; absent since the last change.
    shared: Option<Arc<[BlockId]>>,
}

/// The state of a table's sequence. Each slot named counts as one reference, `current` and `own` as two where they
/// are the same.
#[derive(Debug, Default)]
pub(super) struct TableState {
    /// Tokens it has seen.
    pub(super) tokens: usize,
    /// Holds it; none before the first token.
    pub(super) current: Option<StateSlot>,
    /// Where it goes next, which nobody else reads.
    pub(super) own: Option<StateSlot>,
    /// What is to enter the tree of prefixes once it has been computed.
    pub(super) snapshots: Vec<Snapshot>,
}

impl BlockTable {
    pub(super) fn new(blocks: Vec<BlockId>, tokens: usize, state: TableState) -> Self {
        Self { blocks, tokens, state, shared: None }
    }

    /// Tokens held or with room reserved by `grow`.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The blocks; token `t` is in block `t / BLOCK_TOKENS`.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// The same blocks to keep in a plan; made anew only after a change, about every `BLOCK_TOKENS` tokens.
    pub fn shared(&mut self) -> Arc<[BlockId]> {
        Arc::clone(self.shared.get_or_insert_with(|| self.blocks.as_slice().into()))
    }

    /// Tokens there is room for without another block.
    pub(super) fn room(&self) -> usize {
        self.blocks.len() * BLOCK_TOKENS
    }

    /// The blocks, to be changed.
    pub(super) fn blocks_mut(&mut self) -> &mut Vec<BlockId> {
        self.shared = None;
        &mut self.blocks
    }
}
