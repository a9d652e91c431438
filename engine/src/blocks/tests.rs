//! The store's promises: by example, and over millions of random steps against a model.

mod model;
mod states;

use super::*;

/// `blocks` full blocks; those with equal `names` hold equal tokens.
fn prompt(names: &[u32]) -> Vec<u32> {
    names.iter().flat_map(|&name| (0..BLOCK_TOKENS as u32).map(move |at| name * 100 + at)).collect()
}

/// A sequence that has computed and published `tokens`.
fn computed(store: &mut BlockStore, tokens: &[u32]) -> BlockTable {
    let mut table = store.attach(tokens);
    let rest = tokens.len() - table.tokens();
    store.grow(&mut table, rest).expect("there is room");
    store.publish(&mut table, tokens);
    table
}

#[test]
fn a_second_sequence_shares_the_full_blocks_of_the_first() {
    let mut store = BlockStore::new(8);
    let tokens = prompt(&[1, 2, 3]);
    let first = computed(&mut store, &tokens);
    let other = [&tokens[..2 * BLOCK_TOKENS], &[7; 5]].concat();
    let second = store.attach(&other);
    assert_eq!((second.tokens(), second.blocks()), (2 * BLOCK_TOKENS, &first.blocks()[..2]));
    assert_eq!(store.available(), 5);
    store.release(second);
    store.release(first);
    assert_eq!(store.available(), 8);
}

#[test]
fn at_least_one_token_is_left_to_compute() {
    let mut store = BlockStore::new(8);
    let tokens = prompt(&[1, 2]);
    let first = computed(&mut store, &tokens);
    let second = store.attach(&tokens);
    assert_eq!(second.tokens(), BLOCK_TOKENS);
    store.release(first);
    store.release(second);
}

#[test]
fn a_prefix_outlives_its_sequence_until_room_is_needed() {
    let mut store = BlockStore::new(4);
    let tokens = prompt(&[1, 2, 3]);
    let first = computed(&mut store, &tokens);
    store.release(first);
    let mut second = store.attach(&prompt(&[9]));
    store.grow(&mut second, 2 * BLOCK_TOKENS).expect("one is free, one idle");
    let third = store.attach(&[tokens, vec![0]].concat());
    assert_eq!(third.tokens(), 2 * BLOCK_TOKENS, "the end of a prefix goes before its beginning");
    store.release(second);
    store.release(third);
}

#[test]
fn the_least_recently_used_prefix_is_evicted_first() {
    let mut store = BlockStore::new(3);
    for name in [1, 2, 3] {
        let table = computed(&mut store, &prompt(&[name]));
        store.release(table);
    }
    let touched = store.attach(&[prompt(&[1]), vec![0]].concat());
    store.release(touched);
    let mut new = store.attach(&[0]);
    store.grow(&mut new, 1).expect("three are idle");
    let cached = [1, 2, 3].map(|name| {
        let table = store.attach(&[prompt(&[name]), vec![0]].concat());
        let tokens = table.tokens();
        store.release(table);
        tokens > 0
    });
    assert_eq!(cached, [true, false, true]);
    store.release(new);
}

#[test]
fn a_fork_copies_the_last_block_when_one_side_writes() {
    let mut store = BlockStore::new(8);
    let mut first = store.attach(&[1]);
    store.grow(&mut first, BLOCK_TOKENS + 5).expect("there is room");
    let mut second = store.fork(&mut first).expect("there are no states");
    let shared = first.blocks()[1];
    let copy = store.grow(&mut second, 1).expect("there is room").expect("the block is shared");
    assert_eq!((copy.from, copy.to, copy.tokens), (shared, second.blocks()[1], 5));
    assert_eq!(second.blocks()[0], first.blocks()[0]);
    assert_eq!(store.grow(&mut first, 1), Ok(None), "the other side is alone with it now");
    store.release(first);
    store.release(second);
    assert_eq!(store.available(), 8);
}

#[test]
fn writing_behind_a_truncated_prefix_leaves_the_cached_block_alone() {
    let mut store = BlockStore::new(4);
    let tokens = prompt(&[1]);
    let mut table = computed(&mut store, &tokens);
    store.truncate(&mut table, 10);
    let copy = store.grow(&mut table, 1).expect("there is room");
    assert_eq!(copy.map(|copy| copy.tokens), Some(10));
    let cached = store.attach(&[tokens, vec![0]].concat());
    assert_eq!(cached.tokens(), BLOCK_TOKENS);
    assert_ne!(cached.blocks(), table.blocks());
    store.release(table);
    store.release(cached);
}

#[test]
fn growth_beyond_the_pool_changes_nothing() {
    let mut store = BlockStore::new(2);
    let mut table = store.attach(&[1]);
    store.grow(&mut table, 40).expect("there is room");
    let refused = store.grow(&mut table, 30);
    assert_eq!(refused, Err(OutOfBlocks { needed: 1, available: 0 }));
    assert_eq!((table.tokens(), table.blocks().len()), (40, 2));
    store.release(table);
}

#[test]
fn idle_blocks_above_a_running_sequence_can_be_evicted() {
    let mut store = BlockStore::new(4);
    let tokens = prompt(&[1, 2]);
    // Two sequences compute the same prefix at once; the second goes on below the first one's block.
    let mut second = store.attach(&tokens);
    store.grow(&mut second, 2 * BLOCK_TOKENS).expect("there is room");
    let first = computed(&mut store, &tokens[..BLOCK_TOKENS]);
    store.publish(&mut second, &tokens);
    store.release(first);
    let mut third = store.attach(&prompt(&[9]));
    store.grow(&mut third, 2 * BLOCK_TOKENS).expect("one is free, one idle");
    store.check([&second, &third].into_iter());
    store.publish(&mut second, &tokens);
    let fourth = store.attach(&[tokens, vec![0]].concat());
    assert_eq!(fourth.blocks(), second.blocks(), "what runs is cached again");
    [second, third, fourth].into_iter().for_each(|table| store.release(table));
}

#[test]
fn equal_hashes_never_give_a_wrong_prefix() {
    let mut store = BlockStore::with_hash(8, |_, _| 42);
    let first = computed(&mut store, &prompt(&[1, 2]));
    let second = computed(&mut store, &prompt(&[3, 4]));
    assert_eq!(second.tokens(), 2 * BLOCK_TOKENS);
    assert!(second.blocks().iter().all(|block| !first.blocks().contains(block)));
    store.release(first);
    store.release(second);
}
