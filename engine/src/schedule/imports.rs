//! Blocks that are not computed here but brought from elsewhere.
//!
//! They are taken from what is available as an admitted sequence's are, filled by the caller, and then either cached or
//! given back: no sequence holds them.

use super::scheduler::Scheduler;
use crate::blocks::{BLOCK_TOKENS, BlockTable, OutOfBlocks};

impl Scheduler {
    /// A table of what is cached of `tokens`, which are whole blocks, and of new blocks for the rest. `brought` says how many of the
    /// last ones will be filled; none are taken where more are missing.
    ///
    /// # Errors
    /// When there is no room beside a reserve for what runs, as for a sequence that is admitted; nothing is taken then.
    pub fn begin_import(&mut self, tokens: &[u32], brought: usize) -> Result<BlockTable, ImportRefusal> {
        // `attach` leaves a token to compute: here, one behind the last block.
        let mut table = self.store.attach(&[tokens, &[0]].concat());
        let (cached, blocks) = (table.blocks().len(), tokens.len() / BLOCK_TOKENS);
        if cached + brought < blocks {
            self.store.release(table);
            return Err(ImportRefusal::PrefixGone { cached });
        }
        let rest = tokens.len() - table.tokens();
        let needed = self.store.needed(&table, rest) + self.reserve();
        let available = self.store.available();
        if needed > available {
            self.store.release(table);
            return Err(OutOfBlocks { needed, available }.into());
        }
        match self.store.grow(&mut table, rest) {
            Ok(_) => Ok(table),
            Err(out) => {
                self.store.release(table);
                Err(out.into())
            }
        }
    }

    /// Caches the blocks of an import, which have been filled, and lets them go: requests find them.
    pub fn finish_import(&mut self, mut table: BlockTable, tokens: &[u32]) {
        self.store.publish(&mut table, tokens);
        self.store.release(table);
    }

    /// Gives the blocks of an import back.
    pub fn give_up_import(&mut self, table: BlockTable) {
        self.store.release(table);
    }

    /// Leading blocks of `tokens` that are cached, of those that computing `tokens` would begin with.
    pub fn cached(&mut self, tokens: &[u32]) -> usize {
        let table = self.store.attach(tokens);
        let cached = table.blocks().len();
        self.store.release(table);
        cached
    }

    /// Whether `sequence` runs and has this block as its `at`-th.
    pub fn has_block(&self, sequence: super::SequenceId, at: usize, block: crate::blocks::BlockId) -> bool {
        let running = self.running.iter().find(|entry| entry.member.sequence == sequence);
        running.is_some_and(|entry| entry.table.blocks().get(at) == Some(&block))
    }
}

/// Why no blocks are taken for an import.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportRefusal {
    /// More is missing than is brought.
    #[error("only {cached} blocks are cached before those that are brought")]
    PrefixGone {
        /// Blocks that are cached.
        cached: usize,
    },
    /// There are too few blocks.
    #[error(transparent)]
    NoRoom(#[from] OutOfBlocks),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Admission, SchedulerLimits, SequenceId};
    use super::*;
    use crate::blocks::BlockStore;

    fn scheduler(blocks: usize) -> Scheduler {
        let ageing = Duration::from_secs(5);
        let limits =
            SchedulerLimits { max_sequences: 4, step_tokens: 512, ageing, stages: 1, exact_rows: None };
        Scheduler::new(limits, BlockStore::new(blocks))
    }

    fn tokens(blocks: usize) -> Vec<u32> {
        (0..(blocks * BLOCK_TOKENS) as u32).collect()
    }

    fn admit(scheduler: &mut Scheduler, prompt: Vec<u32>) -> usize {
        scheduler
            .add(Admission {
                sequence: SequenceId(1),
                prompt,
                resumed: 0,
                max_new_tokens: 1,
                priority: 0,
                client: None,
                arrival: Duration::ZERO,
                deadline: None,
            })
            .expect("it fits");
        scheduler.plan(Duration::ZERO).spans[0].start
    }

    #[test]
    fn imported_blocks_are_found_by_the_next_request() {
        let mut scheduler = scheduler(8);
        let tokens = tokens(3);
        let table = scheduler.begin_import(&tokens, 3).expect("there is room");
        assert_eq!((table.blocks().len(), scheduler.store().available()), (3, 5));
        assert_eq!(scheduler.cached(&[&tokens[..], &[7]].concat()), 0, "not before they are filled");
        scheduler.finish_import(table, &tokens);
        assert_eq!(scheduler.store().available(), 8, "they are cached, and nobody holds them");
        assert_eq!(admit(&mut scheduler, [&tokens[..], &[7]].concat()), 3 * BLOCK_TOKENS);
        scheduler.check();
    }

    #[test]
    fn an_import_that_is_given_up_leaves_nothing() {
        let mut scheduler = scheduler(8);
        let tokens = tokens(3);
        let table = scheduler.begin_import(&tokens, 3).expect("there is room");
        scheduler.give_up_import(table);
        assert_eq!(scheduler.store().available(), 8);
        assert_eq!(admit(&mut scheduler, [&tokens[..], &[7]].concat()), 0);
        scheduler.check();
    }

    #[test]
    fn blocks_whose_beginning_is_not_cached_are_refused() {
        let mut scheduler = scheduler(8);
        let refused = scheduler.begin_import(&tokens(3), 2);
        assert_eq!(refused.err(), Some(ImportRefusal::PrefixGone { cached: 0 }));
        let first = scheduler.begin_import(&tokens(1), 1).expect("there is room");
        scheduler.finish_import(first, &tokens(1));
        let rest = scheduler.begin_import(&tokens(3), 2).expect("what precedes them is cached");
        assert_eq!(rest.blocks().len(), 3);
        scheduler.give_up_import(rest);
        scheduler.check();
    }

    #[test]
    fn what_runs_keeps_its_reserve() {
        let mut scheduler = scheduler(8);
        assert_eq!(admit(&mut scheduler, tokens(4)), 0);
        let refused = scheduler.begin_import(&tokens(3).iter().map(|token| token + 1).collect::<Vec<_>>(), 3);
        let out = OutOfBlocks { needed: 5, available: 4 };
        assert_eq!(refused.err(), Some(ImportRefusal::NoRoom(out)));
        scheduler.check();
    }
}
