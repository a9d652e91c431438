//! Links that talk to each other over wires with faults.

mod model;

use std::time::Duration;

use super::*;
use crate::domain::PeerState;
use crate::{
    Access, Batch, BatchBuilder, Channel, Denial, Memory, PeerLoss, Region, Tag, Transport, TransportExt,
};

const SECOND: Duration = Duration::from_secs(1);

struct Pair {
    network: Arc<Network>,
    one: Arc<Faulty>,
    other: Arc<Faulty>,
}

impl Pair {
    fn over(rails: u16, conditions: Conditions) -> Self {
        let config = LinkConfig { slice_bytes: 1000, ..LinkConfig::default() };
        let network = Network::new(1, rails, conditions, config);
        let (one, other) = (network.endpoint(), network.endpoint());
        let connecting = one.connect(other.id(), &[], network.now());
        crate::contract::block_on(connecting).expect("nothing keeps them apart");
        Self { network, one, other }
    }

    fn soon(&self) -> Instant {
        self.network.now() + 10 * SECOND
    }

    fn region(&self, end: &Faulty, bytes: usize) -> Region {
        let memory = Memory::zeroed(bytes).expect("there is memory");
        end.register(memory, Access::READ_WRITE).expect("host memory")
    }

    /// A write of `bytes` bytes of some pattern that `other` expects, and where it goes.
    fn write(&self, tag: u64, bytes: usize) -> (Op, Region, crate::Counter) {
        let (source, target) = (self.region(&self.one, bytes), self.region(&self.other, bytes));
        source.write_at(0, &pattern(bytes));
        let counter = self.other.domain().expect(Tag::new(tag), &[self.one.id()]).expect("the tag is free");
        let batch = Batch::single((&source, 0), (&target.key(), 0), bytes as u64).expect("it fits");
        (self.one.write(&batch, Tag::new(tag), self.soon()), target, counter)
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
}

fn contents(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len()];
    region.read_at(0, &mut bytes);
    bytes
}

#[test]
fn a_batch_of_many_slices_arrives_whole_over_several_rails() {
    let pair = Pair::over(3, Conditions::default());
    let (op, target, counter) = pair.write(1, 100_001);
    assert_eq!(pair.network.wait(&op), Ok(()));
    assert_eq!(counter.count(), 1);
    assert_eq!(contents(&target), pattern(100_001));
}

#[test]
fn a_batch_of_many_pages_is_put_together_into_few_frames() {
    let pair = Pair::over(1, Conditions::default());
    let (source, target) = (pair.region(&pair.one, 64_000), pair.region(&pair.other, 64_000));
    source.write_at(0, &pattern(64_000));
    let mut batch = BatchBuilder::default();
    let pages = batch.pair(&source, &target.key());
    batch.pages(pages, (0..640).map(|page| (page * 100, (639 - page) * 100)), 10);
    let batch = batch.build().expect("they fit");
    let counter = pair.other.domain().expect(Tag::new(1), &[pair.one.id()]).expect("the tag is free");
    let op = pair.one.write(&batch, Tag::new(1), pair.soon());
    assert_eq!(pair.network.wait(&op), Ok(()));
    assert_eq!(counter.count(), 1);
    let (sent, arrived) = (pattern(64_000), contents(&target));
    assert!((0..640).all(|page| {
        sent[page * 100..page * 100 + 10] == arrived[(639 - page) * 100..(639 - page) * 100 + 10]
    }));
}

#[test]
fn a_rail_that_breaks_in_the_middle_costs_its_slices_a_second_way() {
    let pair = Pair::over(2, Conditions { rate: 1e6, ..Conditions::default() });
    let (op, target, counter) = pair.write(1, 200_000);
    for _ in 0..5 {
        pair.network.pass(Duration::from_millis(11));
        pair.network.break_one(pair.one.id(), pair.other.id());
    }
    assert_eq!(pair.network.wait(&op), Ok(()));
    assert_eq!((counter.count(), contents(&target) == pattern(200_000)), (1, true));
    assert!(pair.one.stats().resent > 0);
}

#[test]
fn a_link_that_is_cut_for_a_moment_goes_on_where_it_was() {
    let pair = Pair::over(2, Conditions { rate: 1e6, ..Conditions::default() });
    let (op, target, counter) = pair.write(1, 300_000);
    pair.network.pass(Duration::from_millis(30));
    pair.network.cut(pair.one.id(), pair.other.id());
    pair.network.pass(Duration::from_millis(500));
    assert_eq!(op.outcome(), None);
    pair.network.restore(pair.one.id(), pair.other.id());
    assert_eq!(pair.network.wait(&op), Ok(()));
    assert_eq!((counter.count(), contents(&target) == pattern(300_000)), (1, true));
}

#[test]
fn a_link_that_stays_cut_is_lost_within_a_second_on_both_sides() {
    let pair = Pair::over(2, Conditions { rate: 1e6, ..Conditions::default() });
    let (op, _target, counter) = pair.write(1, 300_000);
    let arrival = counter.reached(1, pair.soon());
    pair.network.pass(Duration::from_millis(30));
    pair.network.cut(pair.one.id(), pair.other.id());
    pair.network.pass(SECOND + Duration::from_millis(100));
    assert_eq!(
        (op.outcome(), arrival.outcome()),
        (Some(Err(OpError::PeerLost)), Some(Err(OpError::PeerLost)))
    );
    assert_eq!(pair.one.domain().peer_state(pair.other.id()), PeerState::Lost(PeerLoss::Broken));
}

#[test]
fn a_peer_that_says_nothing_any_more_is_lost_within_a_second() {
    for frozen in [true, false] {
        let pair = Pair::over(2, Conditions::default());
        let (op, _target, _counter) = pair.write(1, 100_000);
        if frozen {
            pair.network.freeze(pair.other.id(), true);
        } else {
            pair.network.swallow(pair.one.id(), pair.other.id());
        }
        pair.network.pass(SECOND + Duration::from_millis(100));
        assert_eq!(op.outcome(), Some(Err(OpError::PeerLost)));
        assert_eq!(pair.one.domain().peer_state(pair.other.id()), PeerState::Lost(PeerLoss::Silent));
    }
}

#[test]
fn an_idle_link_is_not_lost() {
    let pair = Pair::over(2, Conditions::default());
    pair.network.pass(60 * SECOND);
    let (op, _target, _counter) = pair.write(1, 10);
    assert_eq!(pair.network.wait(&op), Ok(()));
}

#[test]
fn a_killed_peer_is_lost_within_a_second() {
    let pair = Pair::over(2, Conditions::default());
    let (op, _target, _counter) = pair.write(1, 1_000_000);
    pair.network.pass(Duration::from_micros(200));
    pair.network.kill(pair.other.id());
    pair.network.pass(SECOND);
    assert_eq!(op.outcome(), Some(Err(OpError::PeerLost)));
}

#[test]
fn a_goodbye_ends_what_is_in_flight_on_both_sides_at_once() {
    let pair = Pair::over(2, Conditions::default());
    let (op, _target, counter) = pair.write(1, 1_000_000);
    let arrival = counter.reached(1, pair.soon());
    pair.one.disconnect(pair.other.id());
    assert_eq!(op.outcome(), Some(Err(OpError::PeerLost)));
    pair.network.pass(Duration::from_millis(1));
    assert_eq!(arrival.outcome(), Some(Err(OpError::PeerLost)));
    assert_eq!(pair.other.domain().peer_state(pair.one.id()), PeerState::Lost(PeerLoss::Closed));
}

#[test]
fn a_late_write_of_a_closed_tag_reaches_neither_counter_nor_memory() {
    let pair = Pair::over(1, Conditions { rate: 1e6, ..Conditions::default() });
    let (op, target, counter) = pair.write(1, 50_000);
    pair.network.pass(Duration::from_millis(20));
    drop(counter);
    pair.network.pass(Duration::from_millis(2));
    let before = contents(&target);
    assert!(before != pattern(50_000), "the test closes the tag in the middle");
    assert_eq!(pair.network.wait(&op), Err(OpError::Cancelled));
    assert_eq!(contents(&target), before);
}

#[test]
fn a_region_that_is_dropped_under_load_refuses_the_rest() {
    let pair = Pair::over(2, Conditions { rate: 1e6, ..Conditions::default() });
    let (op, target, counter) = pair.write(1, 50_000);
    pair.network.pass(Duration::from_millis(20));
    drop(target);
    assert_eq!(pair.network.wait(&op), Err(OpError::AccessDenied(Denial::UnknownKey)));
    assert_eq!(counter.count(), 0);
}

#[test]
fn reads_bring_what_is_there_and_are_refused_like_writes() {
    let pair = Pair::over(2, Conditions::default());
    let (local, remote) = (pair.region(&pair.one, 70_000), pair.region(&pair.other, 70_000));
    remote.write_at(0, &pattern(70_000));
    let mut pages = BatchBuilder::default();
    let between = pages.pair(&local, &remote.key());
    pages.pages(between, (0..3500).map(|page| (page * 20, page * 20)).rev(), 20);
    let op = pair.one.read(&pages.build().expect("they fit"), pair.soon());
    assert_eq!(pair.network.wait(&op), Ok(()));
    assert_eq!(contents(&local), pattern(70_000));
    let key = remote.key();
    drop(remote);
    let refused = Batch::single((&local, 0), (&key, 0), 100).expect("it fits");
    let op = pair.one.read(&refused, pair.soon());
    assert_eq!(pair.network.wait(&op), Err(OpError::AccessDenied(Denial::UnknownKey)));
    assert_eq!(pair.one.stats().in_flight, 0);
}

#[test]
fn messages_keep_their_order_over_rails_of_any_delay_and_wait_for_their_reader() {
    let pair = Pair::over(3, Conditions { jitter: Duration::from_millis(5), ..Conditions::default() });
    let deadline = pair.network.now() + 5 * SECOND;
    let send = |number: u16| {
        let mut message = vec![0; 3000];
        message[..2].copy_from_slice(&number.to_le_bytes());
        pair.one.send(pair.other.id(), Channel(9), message.into(), deadline)
    };
    let sent: Vec<Op> = (0..200).map(send).collect();
    pair.network.pass(SECOND);
    let done = sent.iter().filter(|op| op.outcome() == Some(Ok(()))).count();
    assert_eq!(done, 85, "as many as the window holds");
    for number in 0..200_u16 {
        let message = loop {
            match pair.other.domain().try_receive(pair.one.id(), Channel(9)) {
                Some(message) => break message,
                None => pair.network.pass(Duration::from_millis(1)),
            }
        };
        assert_eq!(message[..2], number.to_le_bytes());
    }
    pair.network.pass(SECOND);
    assert!(sent.iter().all(|op| op.outcome() == Some(Ok(()))));
}

#[test]
fn every_operation_ends_with_its_deadline() {
    let pair = Pair::over(1, Conditions { rate: 1e3, ..Conditions::default() });
    let (source, target) = (pair.region(&pair.one, 100_000), pair.region(&pair.other, 100_000));
    let _counter = pair.other.domain().expect(Tag::new(1), &[pair.one.id()]).expect("the tag is free");
    let batch = Batch::single((&source, 0), (&target.key(), 0), 100_000).expect("it fits");
    let deadline = |milliseconds: u64| pair.network.now() + Duration::from_millis(milliseconds);
    let ops: Vec<Op> = (0..200).map(|at| pair.one.write(&batch, Tag::new(1), deadline(at))).collect();
    pair.network.pass(Duration::from_millis(400));
    assert!(ops.iter().all(|op| op.outcome() == Some(Err(OpError::Timeout))));
    assert_eq!(pair.one.stats().in_flight, 0);
}

#[test]
fn ten_thousand_operations_at_once_all_end_well() {
    let pair = Pair::over(2, Conditions::default());
    let (source, target) = (pair.region(&pair.one, 100), pair.region(&pair.other, 100));
    let counter = pair.other.domain().expect(Tag::new(1), &[pair.one.id()]).expect("the tag is free");
    let batch = Batch::single((&source, 0), (&target.key(), 0), 100).expect("it fits");
    let deadline = pair.network.now() + 60 * SECOND;
    let ops: Vec<Op> = (0..10_000).map(|_| pair.one.write(&batch, Tag::new(1), deadline)).collect();
    assert_eq!(pair.network.wait(&counter.reached(10_000, deadline)), Ok(()));
    pair.network.pass(SECOND);
    assert!(ops.iter().all(|op| op.outcome() == Some(Ok(()))));
}

#[test]
fn a_slow_rail_is_not_waited_for() {
    let fast = Conditions { rate: 1e7, ..Conditions::default() };
    let pair = Pair::over(2, fast);
    let slow = Conditions { rate: 1e5, ..fast };
    assert!(pair.network.set_conditions(pair.one.id(), pair.other.id(), 1, slow));
    let mut times = Vec::new();
    for tag in 0..4 {
        let begun = pair.network.now();
        let (op, _target, _counter) = pair.write(tag, 1_000_000);
        assert_eq!(pair.network.wait(&op), Ok(()));
        times.push(pair.network.now() - begun);
    }
    // Alone the fast rail takes 106 ms; eight slices queued on the slow one take 80 ms.
    assert!(times.iter().skip(1).all(|time| *time < Duration::from_millis(200)), "{times:?}");
}
