//! The pool of blocks: who holds each, which are cached, which are free.
//!
//! A block is free, held (referenced by tables), or idle: cached as part of a prefix and held by nobody. Idle blocks
//! count as available and are evicted, least recently used first and leaves of the tree before their parents, when no
//! block is free.

use std::collections::BTreeSet;

use super::prefix::{ChainHash, Insertion, PrefixTree, chain_hash, index};
use super::states::StateSlots;
use super::{BLOCK_TOKENS, BlockCopy, BlockId, BlockTable, OutOfStates, StateLimits, blocks_for};

/// A request for more blocks than there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{needed} KV blocks are needed, {available} are available; end or preempt a sequence")]
pub struct OutOfBlocks {
    /// Blocks asked for.
    pub needed: usize,
    /// Blocks free or evictable.
    pub available: usize,
}

/// The blocks of one KV pool.
#[derive(Debug)]
pub struct BlockStore {
    blocks: Vec<Block>,
    /// Taken from the end.
    free: Vec<BlockId>,
    pub(super) tree: PrefixTree,
    /// Present where sequences have states.
    pub(super) states: Option<StateSlots>,
    /// Idle leaves of the tree, least recently used first.
    leaves: BTreeSet<(u64, BlockId)>,
    /// Idle blocks, leaves or not.
    idle: usize,
    /// Counts releases, to tell which is the latest.
    clock: u64,
    evicted: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    /// Tables that hold it.
    references: u32,
    /// When it became idle last.
    used: u64,
}

impl BlockStore {
    /// A pool of `blocks` blocks, all free; low numbers are handed out first.
    pub fn new(blocks: usize) -> Self {
        Self::with_hash(blocks, chain_hash)
    }

    /// A pool whose tree uses another hash, so that tests can make prefixes collide.
    pub(super) fn with_hash(blocks: usize, hash: ChainHash) -> Self {
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self {
            blocks: vec![Block::default(); blocks as usize],
            free: (0..blocks).rev().map(BlockId).collect(),
            tree: PrefixTree::new(blocks as usize, hash),
            states: None,
            leaves: BTreeSet::new(),
            idle: 0,
            clock: 0,
            evicted: 0,
        }
    }

    /// The same pool for sequences with states, when nothing has been taken from it yet.
    #[must_use]
    pub fn with_states(self, limits: StateLimits) -> Self {
        Self { states: Some(StateSlots::new(limits, self.blocks.len())), ..self }
    }

    /// A table that shares the longest cached prefix of `tokens` in full blocks, and leaves at least one token
    /// to compute. Its `tokens()` need no computing. Where sequences have states, the prefix ends where one was kept.
    pub fn attach(&mut self, tokens: &[u32]) -> BlockTable {
        let most = tokens.len().saturating_sub(1) / BLOCK_TOKENS;
        let mut blocks = self.tree.path(&tokens[..most * BLOCK_TOKENS]);
        let state = self.states.as_mut().map(|states| states.attach(&mut blocks));
        blocks.iter().for_each(|&block| self.hold(block));
        let tokens = blocks.len() * BLOCK_TOKENS;
        BlockTable::new(blocks, tokens, state.unwrap_or_default())
    }

    /// Blocks that growing `table` by `tokens` takes from what is available.
    pub fn needed(&self, table: &BlockTable, tokens: usize) -> usize {
        let added = blocks_for(table.tokens + tokens).saturating_sub(table.blocks.len());
        added + usize::from(tokens > 0 && self.shares_last(table))
    }

    /// Makes room for `tokens` more. A partly filled last block that others can read is replaced; what it holds is
    /// to be copied before the next write. All or nothing.
    ///
    /// # Errors
    /// [`OutOfBlocks`] when too few are available; nothing has changed then.
    pub fn grow(&mut self, table: &mut BlockTable, tokens: usize) -> Result<Option<BlockCopy>, OutOfBlocks> {
        let (needed, available) = (self.needed(table, tokens), self.available());
        let out = OutOfBlocks { needed, available };
        if needed > available {
            return Err(out);
        }
        let mut copy = None;
        if tokens > 0 && self.shares_last(table) {
            // The source is let go only after the target is chosen, or it could be evicted to become the target.
            let to = self.take().ok_or(out)?;
            let at = table.tokens / BLOCK_TOKENS;
            let from = std::mem::replace(&mut table.blocks_mut()[at], to);
            self.let_go(from);
            copy = Some(BlockCopy { from, to, tokens: table.tokens % BLOCK_TOKENS });
        }
        table.tokens += tokens;
        while table.room() < table.tokens {
            let block = self.take().ok_or(out)?;
            table.blocks_mut().push(block);
        }
        Ok(copy)
    }

    /// A second table over the same blocks, and the same state.
    ///
    /// # Errors
    /// [`OutOfStates`] when there are no slots for the state to go on in; nothing has changed then.
    pub fn fork(&mut self, table: &mut BlockTable) -> Result<BlockTable, OutOfStates> {
        let state = self.states.as_mut().map(|states| states.fork(&mut table.state)).transpose()?;
        table.blocks.iter().for_each(|&block| self.hold(block));
        Ok(BlockTable::new(table.blocks.clone(), table.tokens, state.unwrap_or_default()))
    }

    /// Forgets what `table` holds beyond its first `tokens` tokens; all of it where its state has seen more than those,
    /// since a state cannot be taken back.
    pub fn truncate(&mut self, table: &mut BlockTable, tokens: usize) {
        let taken_back = tokens < table.state.tokens;
        if let Some(states) = self.states.as_mut().filter(|_| taken_back) {
            states.release(&mut table.state);
        }
        table.tokens = if taken_back { 0 } else { table.tokens.min(tokens) };
        let keep = blocks_for(table.tokens);
        if keep < table.blocks.len() {
            let dropped = table.blocks_mut().split_off(keep);
            dropped.into_iter().rev().for_each(|block| self.let_go(block));
        }
    }

    /// Caches the full blocks of `table` under `tokens`, what the sequence begins with; those already cached stay
    /// as they are. The contents of these blocks have been computed and never change again, and so have the states that
    /// were kept on the way.
    pub fn publish(&mut self, table: &mut BlockTable, tokens: &[u32]) {
        self.publish_blocks(table, tokens);
        self.publish_snapshots(table, tokens);
    }

    fn publish_blocks(&mut self, table: &BlockTable, tokens: &[u32]) {
        let full = table.tokens.min(tokens.len()) / BLOCK_TOKENS;
        // A block in the tree is there below the blocks that precede it here: what it holds depends on them.
        let cached = table.blocks[..full].iter().rposition(|&block| self.tree.contains(block));
        let first = cached.map_or(0, |at| at + 1);
        let mut parent = cached.map(|at| table.blocks[at]);
        let chunks = tokens.chunks_exact(BLOCK_TOKENS).zip(&table.blocks);
        for (chunk, &block) in chunks.take(full).skip(first) {
            let parent_block = parent;
            parent = match self.tree.insert(parent_block, chunk, block) {
                Insertion::Inserted => Some(block),
                Insertion::Present(other) => Some(other),
                Insertion::Collision => return,
            };
            if let Some(parent) = parent_block {
                // It has a child now.
                self.leaves.remove(&(self.blocks[index(parent)].used, parent));
            }
        }
    }

    /// Takes a table back. Cached blocks stay cached until they are evicted.
    pub fn release(&mut self, mut table: BlockTable) {
        if let Some(states) = &mut self.states {
            states.release(&mut table.state);
        }
        self.truncate(&mut table, 0);
    }

    /// Blocks free or evictable.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle
    }

    /// Blocks of the pool.
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Cached blocks given up since the pool was made.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Whether the next token would be written where others can read.
    fn shares_last(&self, table: &BlockTable) -> bool {
        let last = table.blocks.get(table.tokens / BLOCK_TOKENS);
        last.is_some_and(|&block| self.blocks[index(block)].references > 1 || self.tree.contains(block))
    }

    fn hold(&mut self, block: BlockId) {
        let state = &mut self.blocks[index(block)];
        state.references += 1;
        if state.references == 1 {
            self.idle -= 1;
            self.leaves.remove(&(state.used, block));
        }
    }

    fn let_go(&mut self, block: BlockId) {
        let state = &mut self.blocks[index(block)];
        state.references -= 1;
        if state.references > 0 {
            return;
        }
        if !self.tree.contains(block) {
            return self.free.push(block);
        }
        self.clock += 1;
        state.used = self.clock;
        self.idle += 1;
        if self.tree.is_leaf(block) {
            self.leaves.insert((self.clock, block));
        }
    }

    /// A block nobody holds, now held once.
    fn take(&mut self) -> Option<BlockId> {
        if self.free.is_empty() {
            self.evict();
        }
        let block = self.free.pop()?;
        self.blocks[index(block)].references = 1;
        Some(block)
    }

    /// Frees at least one idle block, if there is one.
    fn evict(&mut self) {
        match self.leaves.pop_first() {
            Some((_, leaf)) => self.uncache(leaf),
            None => self.evict_inner(),
        }
    }

    /// Frees an idle block all of whose descendants are held. That happens where two sequences computed the same
    /// prefix side by side: the one that published it is gone, the other goes on below the first one's blocks.
    fn evict_inner(&mut self) {
        let idle = |at: &usize| self.blocks[*at].references == 0 && self.tree.contains(BlockId(*at as u32));
        let oldest = (0..self.blocks.len()).filter(idle).min_by_key(|&at| self.blocks[at].used);
        let Some(oldest) = oldest else { return };
        for block in self.tree.subtree(BlockId(oldest as u32)) {
            self.leaves.remove(&(self.blocks[index(block)].used, block));
            self.uncache(block);
        }
    }

    /// Takes a leaf out of the tree, and frees it unless it is held.
    fn uncache(&mut self, leaf: BlockId) {
        let parent = self.tree.remove_leaf(leaf);
        if let Some(states) = &mut self.states {
            states.forget(leaf);
        }
        self.evicted += 1;
        if self.blocks[index(leaf)].references == 0 {
            self.idle -= 1;
            self.free.push(leaf);
        }
        if let Some(parent) = parent {
            let Block { references, used } = self.blocks[index(parent)];
            if references == 0 && self.tree.is_leaf(parent) {
                self.leaves.insert((used, parent));
            }
        }
    }
}

#[cfg(test)]
impl BlockStore {
    /// Checks what must hold between calls; `held` are all tables there are.
    pub(crate) fn check<'a>(&self, held: impl Iterator<Item = &'a BlockTable>) {
        let held: Vec<&BlockTable> = held.collect();
        if let Some(states) = &self.states {
            states.check(held.iter().map(|table| &table.state), &self.tree);
        }
        let mut references = vec![0u32; self.blocks.len()];
        for table in held {
            assert_eq!(table.blocks.len(), blocks_for(table.tokens), "a table holds what it needs");
            table.blocks.iter().for_each(|&block| references[index(block)] += 1);
        }
        let mut idle = 0;
        for (at, block) in self.blocks.iter().enumerate() {
            let id = BlockId(at as u32);
            assert_eq!(block.references, references[at], "block {at} is held as often as it is counted");
            let unheld = block.references == 0;
            idle += usize::from(unheld && self.tree.contains(id));
            let listed = self.leaves.contains(&(block.used, id));
            assert_eq!(
                listed,
                unheld && self.tree.is_leaf(id),
                "block {at} is listed when it is an idle leaf"
            );
        }
        assert_eq!(idle, self.idle);
        let held = references.iter().filter(|&&count| count > 0).count();
        assert_eq!(held + idle + self.free.len(), self.total(), "every block is held, idle or free");
        assert!(self.free.iter().all(|&b| references[index(b)] == 0 && !self.tree.contains(b)));
    }
}
