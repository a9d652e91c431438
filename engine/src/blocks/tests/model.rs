//! Random steps against a model that remembers, for every token of every block, the whole history it belongs to.
//!
//! A block used twice, a prefix that is not the one asked for, or a lost copy shows as a table whose blocks do not
//! hold its own history; a slot used twice, or a prefix without its snapshot, as a state that has seen another.

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
    /// Tokens that its state has seen.
    seen: usize,
}

struct Model {
    store: BlockStore,
    random: ChaCha8Rng,
    held: Vec<Held>,
    /// What each token's place in each block holds.
    memory: Vec<[u64; BLOCK_TOKENS]>,
    /// What each slot holds: the history of the last token it has seen.
    states: Vec<u64>,
    stateful: bool,
    /// Prefixes that can be attached to, and how much had been evicted when they were published.
    published: Vec<(Vec<u32>, u64)>,
    /// Prefixes may share a hash: they are not always found, but never confused.
    collides: bool,
}

const MOST_SEQUENCES: usize = 8;

impl Model {
    fn new(seed: u64, blocks: usize, collides: bool, states: Option<StateLimits>) -> Self {
        let hash: ChainHash =
            if collides { |parent, tokens| chain_hash(parent, tokens) % 8 } else { chain_hash };
        let store = BlockStore::with_hash(blocks, hash);
        Self {
            store: match states {
                Some(limits) => store.with_states(limits),
                None => store,
            },
            states: vec![u64::MAX; states.map_or(0, |limits| limits.slots)],
            stateful: states.is_some(),
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
        let seen = tokens.len();
        let mut held = Held { table, tokens, history, seen };
        held.check_attached(&self.states, self.stateful);
        match self.store.claim_state(&mut held.table) {
            Ok(()) => self.held.push(held),
            Err(_) => self.store.release(held.table),
        }
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
        // Room is made for some tokens before they are computed.
        if self.random.random_bool(0.9) {
            self.advance(at);
        }
    }

    fn advance(&mut self, at: usize) {
        let held = &mut self.held[at];
        let count = held.tokens.len() - held.seen;
        if count == 0 {
            return;
        }
        // Only what was truncated has lost the slot that it claimed.
        let Ok(state) = self.store.advance(&mut held.table, count) else {
            return assert_eq!(held.seen, 0);
        };
        assert_eq!(state.is_some(), self.stateful);
        let Some(SpanState { from, to, snapshots }) = state else { return };
        let before = from.map(|slot| self.states[slot.0 as usize]);
        assert_eq!(
            before,
            held.seen.checked_sub(1).map(|last| held.history[last]),
            "it goes on from its own state"
        );
        self.states[to.0 as usize] = held.history[held.tokens.len() - 1];
        for Snapshot { tokens, slot } in snapshots {
            assert!(held.seen < tokens && tokens <= held.tokens.len() && tokens % BLOCK_TOKENS == 0);
            self.states[slot.0 as usize] = held.history[tokens - 1];
        }
        held.seen = held.tokens.len();
    }

    fn fork(&mut self) {
        let Some(at) = self.pick() else { return };
        if self.held.len() < MOST_SEQUENCES {
            let Held { table, tokens, history, seen } = &mut self.held[at];
            let Ok(table) = self.store.fork(table) else { return };
            let (tokens, history, seen) = (tokens.clone(), history.clone(), *seen);
            self.held.push(Held { table, tokens, history, seen });
        }
    }

    fn truncate(&mut self) {
        let Some(at) = self.pick() else { return };
        let keep = self.random.random_range(0..=self.held[at].tokens.len());
        let held = &mut self.held[at];
        self.store.truncate(&mut held.table, keep);
        let keep = held.table.tokens();
        held.tokens.truncate(keep);
        held.history.truncate(keep);
        held.seen = held.seen.min(keep);
    }

    fn publish(&mut self) {
        let Some(at) = self.pick() else { return };
        let held = &mut self.held[at];
        // Where there are states, what they have not seen has not been computed.
        let computed = if self.stateful { held.seen } else { held.tokens.len() };
        let known = self.random.random_range(0..=computed);
        let mut tokens = held.tokens[..known].to_vec();
        let kept = held.table.state.snapshots.iter().map(|snapshot| snapshot.tokens);
        let attachable = kept.filter(|kept| *kept <= known).max().unwrap_or(0);
        self.store.publish(&mut held.table, &tokens);
        if self.stateful {
            tokens.truncate(attachable);
        }
        self.published.push((tokens, self.evicted()));
        self.expect_cached(self.published.len() - 1);
    }

    fn evicted(&self) -> u64 {
        self.store.evicted() + self.store.snapshots_evicted()
    }

    fn release(&mut self) {
        let Some(at) = self.pick() else { return };
        let held = self.held.swap_remove(at);
        self.store.release(held.table);
    }

    /// A prefix published since the last eviction is still there.
    fn recall(&mut self) {
        let evicted = self.evicted();
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
        let seen = found.len();
        let held = Held { table, tokens: found, history, seen };
        held.verify(&self.memory);
        held.check_attached(&self.states, self.stateful);
        self.store.release(held.table);
    }

    /// Everything comes back, and every block can be used again.
    fn end(mut self) {
        let blocks = self.store.total();
        while let Some(held) = self.held.pop() {
            self.store.release(held.table);
        }
        assert_eq!(self.store.available(), blocks);
        if let Some(states) = &self.store.states {
            let (available, all) = states.counts();
            assert_eq!(available, all);
        }
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

    /// A prefix is found only with the state at its end.
    fn check_attached(&self, states: &[u64], stateful: bool) {
        let state = self.table.state.current.map(|slot| states[slot.0 as usize]);
        assert_eq!(state, self.history.last().copied().filter(|_| stateful), "a prefix without its snapshot");
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
    fn no_block_or_state_leaks_is_used_twice_or_loses_a_prefix(
        seed: u64,
        blocks in 1usize..32,
        collides in prop::bool::weighted(0.2),
        states in prop::option::of((2usize..24, 1usize..4)),
        steps in 1usize..40_000,
    ) {
        let states = states.map(|(slots, interval)| StateLimits { slots, interval });
        let mut model = Model::new(seed, blocks, collides, states);
        (0..steps).for_each(|_| model.step());
        model.end();
    }
}
