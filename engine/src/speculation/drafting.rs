//! What a draft model has of each sequence in its own KV pool.
//!
//! A draft computes what it lacks of a sequence and goes on from there with its own guesses. Those that turn out wrong
//! are forgotten by position: what is computed next overwrites them. Knows no tensors; nobody waits for a draft, so
//! where its pool has no room there are no guesses.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::blocks::{BlockId, BlockStore, BlockTable};
use crate::schedule::SequenceId;

/// The draft's side of all sequences.
#[derive(Debug)]
pub struct DraftBooks {
    store: BlockStore,
    contexts: BTreeMap<SequenceId, Context>,
    /// Counts calls, to tell who was drafted for last.
    clock: u64,
}

#[derive(Debug, Default)]
struct Context {
    table: BlockTable,
    /// What its blocks hold, guesses included.
    tokens: Vec<u32>,
    used: u64,
}

/// What a draft is to compute of a sequence before it can guess.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatchUp {
    /// Position of the first token to compute.
    pub start: usize,
    /// Where keys and values are, with room for the guesses.
    pub blocks: Arc<[BlockId]>,
}

impl DraftBooks {
    /// Books over a pool of `blocks` blocks.
    pub fn new(blocks: usize) -> Self {
        Self { store: BlockStore::new(blocks), contexts: BTreeMap::new(), clock: 0 }
    }

    /// Prepares to compute the end of `tokens`, at least the last one, and `ahead` guesses behind it. `None` when the
    /// pool has no room, even after contexts that were not used since the last call gave theirs up.
    pub fn catch_up(&mut self, sequence: SequenceId, tokens: &[u32], ahead: usize) -> Option<CatchUp> {
        self.clock += 1;
        let mut context = self.contexts.remove(&sequence).unwrap_or_default();
        let shared = context.tokens.iter().zip(tokens).take_while(|(held, known)| held == known).count();
        let start = shared.min(tokens.len().saturating_sub(1));
        context.tokens.truncate(start);
        context.used = self.clock;
        let lacking = (tokens.len() + ahead).saturating_sub(context.table.tokens());
        while self.store.grow(&mut context.table, lacking).is_err() {
            if !self.evict_one() {
                self.store.release(context.table);
                return None;
            }
        }
        let blocks = context.table.shared();
        self.contexts.insert(sequence, context);
        Some(CatchUp { start, blocks })
    }

    /// Whether a sequence still has the blocks it caught up in.
    pub fn holds(&self, sequence: SequenceId, catch_up: &CatchUp) -> bool {
        let context = self.contexts.get(&sequence);
        context.is_some_and(|context| *context.table.blocks() == *catch_up.blocks)
    }

    /// Notes what has been computed of a sequence beyond what it caught up from.
    pub fn computed(&mut self, sequence: SequenceId, tokens: &[u32]) {
        if let Some(context) = self.contexts.get_mut(&sequence) {
            context.tokens.extend_from_slice(tokens);
        }
    }

    /// Forgets every sequence of which `lives` is false.
    pub fn retain(&mut self, lives: impl Fn(SequenceId) -> bool) {
        let dead: Vec<SequenceId> = self.contexts.keys().copied().filter(|name| !lives(*name)).collect();
        dead.into_iter().for_each(|name| self.forget(name));
    }

    /// Blocks that no sequence holds.
    pub fn available(&self) -> usize {
        self.store.available()
    }

    fn forget(&mut self, sequence: SequenceId) {
        if let Some(context) = self.contexts.remove(&sequence) {
            self.store.release(context.table);
        }
    }

    /// The context that was used longest ago gives its blocks up.
    fn evict_one(&mut self) -> bool {
        let oldest = self.contexts.iter().min_by_key(|(_, context)| context.used).map(|(name, _)| *name);
        oldest.into_iter().for_each(|name| self.forget(name));
        oldest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::BLOCK_TOKENS;

    const ONE: SequenceId = SequenceId(1);

    fn start(books: &mut DraftBooks, name: SequenceId, tokens: &[u32]) -> Option<usize> {
        books.catch_up(name, tokens, 4).map(|catch_up| catch_up.start)
    }

    #[test]
    fn wrong_guesses_are_computed_over_and_right_ones_are_not_computed_again() {
        let mut books = DraftBooks::new(10);
        assert_eq!(start(&mut books, ONE, &[1, 2, 3]), Some(0));
        books.computed(ONE, &[1, 2, 3, 10, 11, 12]);
        // The model chose 10 and then another token.
        assert_eq!(start(&mut books, ONE, &[1, 2, 3, 10, 20]), Some(4));
        books.computed(ONE, &[20, 30]);
        // All guesses were right: the last token has to be computed, whatever is held.
        assert_eq!(start(&mut books, ONE, &[1, 2, 3, 10, 20, 30]), Some(5));
        assert_eq!(start(&mut books, ONE, &[1, 2, 3]), Some(2));
    }

    #[test]
    fn who_was_drafted_for_longest_ago_gives_way() {
        let mut books = DraftBooks::new(4);
        let long = vec![7; 2 * BLOCK_TOKENS - 4];
        for name in 1..4 {
            assert_eq!(start(&mut books, SequenceId(name), &long), Some(0));
            books.computed(SequenceId(name), &long);
        }
        assert_eq!(start(&mut books, SequenceId(3), &long), Some(long.len() - 1));
        assert_eq!(start(&mut books, ONE, &long), Some(0));
        assert_eq!(start(&mut books, ONE, &vec![7; 5 * BLOCK_TOKENS]), None);
    }

    #[test]
    fn sequences_that_have_ended_leave_no_block_behind() {
        let mut books = DraftBooks::new(10);
        for name in 1..5 {
            start(&mut books, SequenceId(name), &[1; 40]);
        }
        books.retain(|name| name == ONE);
        assert_eq!(books.available(), 8);
        books.retain(|_| false);
        assert_eq!(books.available(), 10);
    }
}
