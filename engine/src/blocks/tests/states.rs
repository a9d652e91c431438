//! The promises of slots for states, by example.

use super::*;

fn store(slots: usize, interval: usize) -> BlockStore {
    BlockStore::new(16).with_states(StateLimits { slots, interval })
}

/// A sequence that has computed and published `tokens`, in one step.
fn computed(store: &mut BlockStore, tokens: &[u32]) -> (BlockTable, SpanState) {
    let mut table = store.attach(tokens);
    let rest = tokens.len() - table.tokens();
    store.grow(&mut table, rest).expect("there is room");
    let state = store.advance(&mut table, rest).expect("there is a slot").expect("it has a state");
    store.publish(&mut table, tokens);
    (table, state)
}

/// How much of a prompt that begins with the blocks `names` need not be computed.
fn cached(store: &mut BlockStore, names: &[u32]) -> usize {
    let table = store.attach(&[prompt(names), vec![0]].concat());
    let tokens = table.tokens();
    store.release(table);
    tokens / BLOCK_TOKENS
}

#[test]
fn a_state_is_kept_at_every_interval_and_prefixes_end_there() {
    let mut store = store(8, 2);
    let (first, state) = computed(&mut store, &prompt(&[1, 2, 3, 4, 5]));
    assert_eq!(state.from, None, "it begins without a state");
    let kept: Vec<usize> = state.snapshots.iter().map(|snapshot| snapshot.tokens / BLOCK_TOKENS).collect();
    assert_eq!(kept, [2, 4]);
    assert_eq!([&[1, 2, 3, 4, 5][..], &[1, 2, 3], &[1]].map(|names| cached(&mut store, names)), [4, 2, 0]);
    let (second, next) = computed(&mut store, &prompt(&[1, 2, 3, 9]));
    assert_eq!(next.from, Some(state.snapshots[0].slot), "the second goes on from where the first was");
    assert_ne!(next.to, state.snapshots[0].slot, "and leaves it as it is");
    store.release(first);
    store.release(second);
}

#[test]
fn a_sequence_goes_on_in_its_own_slot() {
    let mut store = store(4, 1);
    let (mut table, first) = computed(&mut store, &[7; 5]);
    let next = store.advance(&mut table, 1).expect("it has a slot").expect("it has a state");
    assert_eq!((next.from, next.to), (Some(first.to), first.to));
    store.release(table);
}

#[test]
fn what_has_not_been_computed_is_no_snapshot_yet() {
    let mut store = store(4, 1);
    let tokens = prompt(&[1, 2]);
    let mut table = store.attach(&tokens);
    store.grow(&mut table, tokens.len()).expect("there is room");
    store.advance(&mut table, tokens.len()).expect("there is a slot");
    assert_eq!(cached(&mut store, &[1, 2]), 0);
    store.publish(&mut table, &tokens[..BLOCK_TOKENS]);
    assert_eq!(cached(&mut store, &[1, 2]), 1);
    store.release(table);
    assert_eq!(cached(&mut store, &[1, 2]), 1, "what was never published is forgotten");
}

#[test]
fn the_least_recently_used_snapshot_gives_way_and_running_states_never_do() {
    let mut store = store(3, 1);
    for name in [1, 2] {
        let (table, _) = computed(&mut store, &prompt(&[name]));
        store.release(table);
    }
    assert_eq!((cached(&mut store, &[2]), cached(&mut store, &[1])), (1, 1));
    let (table, _) = computed(&mut store, &[5]);
    let (third, state) = computed(&mut store, &prompt(&[3]));
    assert_eq!(state.snapshots.len(), 1);
    assert_eq!([1, 2, 3].map(|name| cached(&mut store, &[name])), [0, 0, 1]);
    let (fourth, refused) = (store.attach(&[9]), OutOfStates { needed: 1, available: 0 });
    let (mut fourth, held) = (fourth, store.attach(&prompt(&[3, 4])));
    assert_eq!(store.claim_state(&mut fourth), Err(refused));
    [table, third, fourth, held].into_iter().for_each(|table| store.release(table));
    assert_eq!(store.snapshots_evicted(), 2);
}

#[test]
fn forks_leave_each_others_states_alone() {
    let mut store = store(4, 1);
    let (mut first, begun) = computed(&mut store, &[7; 5]);
    let mut second = store.fork(&mut first).expect("there are slots");
    let mut next =
        |table: &mut BlockTable| store.advance(table, 1).expect("it has a slot").expect("it has a state");
    let (one, other) = (next(&mut first), next(&mut second));
    assert_eq!([one.from, other.from], [Some(begun.to); 2]);
    assert!(one.to != other.to && one.to != begun.to && other.to != begun.to);
    store.release(first);
    store.release(second);
}

#[test]
fn a_state_cannot_be_taken_back() {
    let mut store = store(4, 1);
    let (mut table, _) = computed(&mut store, &prompt(&[1]));
    store.truncate(&mut table, 20);
    assert_eq!(table.tokens(), 0, "it begins anew");
    store.release(table);
}

#[test]
fn a_snapshot_goes_with_its_block() {
    let mut store = BlockStore::new(2).with_states(StateLimits { slots: 4, interval: 1 });
    let (table, _) = computed(&mut store, &prompt(&[1, 2]));
    store.release(table);
    let mut other = store.attach(&[0]);
    store.grow(&mut other, 1).expect("blocks are idle");
    assert_eq!(cached(&mut store, &[1, 2]), 1);
    assert_eq!(store.snapshots_evicted(), 1);
    store.release(other);
}
