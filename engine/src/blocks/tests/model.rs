//! Random steps against a model that remembers, for every token of every block, the whole history it belongs to.
//!
//! A block used twice, a prefix that is not the one asked for, or a lost copy shows as a table whose blocks do not
//! hold its own history.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::prefix::{ChainHash, chain_hash};
use super::super::*;

/// A sequence of the model.
struct Held {
    table: BlockTable,
    tokens: Vec<u32>,
    /// For each token, a hash of it and all before it: what its place in the pool must hold.
    history: Vec<u64>,
}

struct Model {
    store: BlockStore,
    random: ChaCha8Rng,
    held: Vec<Held>,
    /// What each token's place in each block holds.
    memory: Vec<[u64; BLOCK_TOKENS]>,
    /// Prefixes published, and how many blocks had been evicted then.
    published: Vec<(Vec<u32>, u64)>,
    /// Prefixes may share a hash: they are not always found, but never confused.
    collides: bool,
}

const MOST_SEQUENCES: usize = 8;

impl Model {
    fn new(seed: u64, blocks: usize, collides: bool) -> Self {
        let hash: ChainHash =
            if collides { |parent, tokens| chain_hash(parent, tokens) % 8 } else { chain_hash };
        Self {
            store: BlockStore::with_hash(blocks, hash),
            random: ChaCha8Rng::seed_from_u64(seed),
            held: Vec::new(),
            memory: vec![[0; BLOCK_TOKENS]; blocks],
            published: Vec::new(),
            collides,
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..20) {
            0..3 => self.start(),
            3..10 => self.grow(),
            10..12 => self.fork(),
            12..14 => self.truncate(),
            14..17 => self.publish(),
            17..19 => self.release(),
            _ => self.recall(),
        }
        self.store.check(self.held.iter().map(|held| &held.table));
        self.held.iter().for_each(|held| held.verify(&self.memory));
    }

    /// Tokens of few kinds of blocks, so that sequences often begin alike.
    fn tokens(&mut self, count: usize) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(count);
        while tokens.len() < count {
            let name = self.random.random_range(0..3) * 100;
            tokens.extend((0..BLOCK_TOKENS as u32).map(|at| name + at));
        }
        tokens.truncate(count);
        tokens
    }

    fn start(&mut self) {
        if self.held.len() == MOST_SEQUENCES {
            return;
        }
        let count = self.random.random_range(1..5 * BLOCK_TOKENS);
        let mut tokens = self.tokens(count);
        let table = self.store.attach(&tokens);
        assert!(table.tokens() < tokens.len(), "a token is left to compute");
        tokens.truncate(table.tokens());
        let history = history(&[], &tokens);
        self.held.push(Held { table, tokens, history });
    }

    fn pick(&mut self) -> Option<usize> {
        let count = self.held.len();
        (count > 0).then(|| self.random.random_range(0..count))
    }

    fn grow(&mut self) {
        let Some(at) = self.pick() else { return };
        let wanted = self.random.random_range(0..2 * BLOCK_TOKENS);
        // Ends of blocks matter most.
        let to_end = BLOCK_TOKENS - self.held[at].tokens.len() % BLOCK_TOKENS;
        let count = if self.random.random_bool(0.3) { to_end } else { wanted };
        let mut new = self.tokens(self.held[at].tokens.len() % BLOCK_TOKENS + count);
        let new = new.split_off(new.len() - count);
        let held = &mut self.held[at];
        let (needed, available) = (self.store.needed(&held.table, count), self.store.available());
        match self.store.grow(&mut held.table, count) {
            Err(out) => {
                assert_eq!(out, OutOfBlocks { needed, available });
                assert!(needed > available);
            }
            Ok(copy) => {
                assert!(needed <= available);
                if let Some(BlockCopy { from, to, tokens }) = copy {
                    let source = self.memory[from.0 as usize];
                    self.memory[to.0 as usize][..tokens].copy_from_slice(&source[..tokens]);
                }
                held.write(&new, &mut self.memory);
            }
        }
    }

    fn fork(&mut self) {
        let Some(at) = self.pick() else { return };
        if self.held.len() < MOST_SEQUENCES {
            let Held { table, tokens, history } = &self.held[at];
            let table = self.store.fork(table);
            self.held.push(Held { table, tokens: tokens.clone(), history: history.clone() });
        }
    }

    fn truncate(&mut self) {
        let Some(at) = self.pick() else { return };
        let keep = self.random.random_range(0..=self.held[at].tokens.len());
        let held = &mut self.held[at];
        self.store.truncate(&mut held.table, keep);
        held.tokens.truncate(keep);
        held.history.truncate(keep);
    }

    fn publish(&mut self) {
        let Some(at) = self.pick() else { return };
        let known = self.random.random_range(0..=self.held[at].tokens.len());
        let tokens = self.held[at].tokens[..known].to_vec();
        self.store.publish(&self.held[at].table, &tokens);
        self.published.push((tokens, self.store.evicted()));
        self.expect_cached(self.published.len() - 1);
    }

    fn release(&mut self) {
        let Some(at) = self.pick() else { return };
        let held = self.held.swap_remove(at);
        self.store.release(held.table);
    }

    /// A prefix published since the last eviction is still there.
    fn recall(&mut self) {
        let evicted = self.store.evicted();
        self.published.retain(|(_, then)| *then == evicted);
        if !self.published.is_empty() {
            let at = self.random.random_range(0..self.published.len());
            self.expect_cached(at);
        }
    }

    fn expect_cached(&mut self, published: usize) {
        let tokens = &self.published[published].0;
        let table = self.store.attach(&[tokens.as_slice(), &[u32::MAX]].concat());
        assert!(self.collides || table.tokens() == tokens.len() / BLOCK_TOKENS * BLOCK_TOKENS, "prefix lost");
        let found = tokens[..table.tokens()].to_vec();
        let history = history(&[], &found);
        let held = Held { table, tokens: found, history };
        held.verify(&self.memory);
        self.store.release(held.table);
    }

    /// Everything comes back, and every block can be used again.
    fn end(mut self) {
        let blocks = self.store.total();
        while let Some(held) = self.held.pop() {
            self.store.release(held.table);
        }
        assert_eq!(self.store.available(), blocks);
        let mut all = self.store.attach(&[]);
        self.store.grow(&mut all, blocks * BLOCK_TOKENS).expect("all are available");
        self.store.check([&all].into_iter());
        self.store.release(all);
    }
}

impl Held {
    fn write(&mut self, new: &[u32], memory: &mut [[u64; BLOCK_TOKENS]]) {
        let start = self.tokens.len();
        self.history.extend(history(&self.history, new));
        self.tokens.extend(new);
        for at in start..self.tokens.len() {
            let block = self.table.blocks()[at / BLOCK_TOKENS];
            memory[block.0 as usize][at % BLOCK_TOKENS] = self.history[at];
        }
    }

    fn verify(&self, memory: &[[u64; BLOCK_TOKENS]]) {
        assert_eq!(self.table.tokens(), self.tokens.len());
        for (block, expected) in self.table.blocks().iter().zip(self.history.chunks(BLOCK_TOKENS)) {
            assert!(memory[block.0 as usize][..expected.len()] == *expected, "a block holds another history");
        }
    }
}

/// The history of each of `new` behind `before`.
fn history(before: &[u64], new: &[u32]) -> Vec<u64> {
    let mut last = before.last().copied().unwrap_or(0);
    let chain = |&token: &u32| {
        last = (last ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_add(1);
        last
    };
    new.iter().map(chain).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn no_block_leaks_is_used_twice_or_loses_a_prefix(
        seed: u64,
        blocks in 1usize..32,
        collides in prop::bool::weighted(0.2),
        steps in 1usize..40_000,
    ) {
        let mut model = Model::new(seed, blocks, collides);
        (0..steps).for_each(|_| model.step());
        model.end();
    }
}
