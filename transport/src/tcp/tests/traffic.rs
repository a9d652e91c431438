//! What is asked for comes about, whoever drives.

use super::*;
use crate::contract::BatchBuilder;

fn each(test: impl Fn(&Pair, &str)) {
    for way in WAYS {
        test(&way.pair(), &format!("{way:?}"));
    }
}

#[test]
fn a_write_of_any_size_arrives_whole_and_is_counted() {
    each(|pair, way| {
        for (id, len) in [1, 4096, 100_000, 3 << 20, (9 << 20) + 17].into_iter().enumerate() {
            let (source, target) =
                (region(&pair.one, len, Access::LOCAL), region(&pair.other, len, Access::WRITE));
            let bytes = pattern(len, 3);
            source.write_at(0, &bytes);
            let tag = Tag::new(id as u64);
            let counter =
                pair.other.domain().expect(tag, &[pair.one.domain().id()]).expect("the tag is free");
            let batch = Batch::single((&source, 0), (&target.key(), 0), len as u64).expect("it fits");
            let op = pair.one.write(&batch, tag, soon());
            assert_eq!(pair.one.wait(op), Ok(()), "{way}, {len} bytes");
            assert_eq!(counter.count(), 1);
            assert!(contents(&target) == bytes, "{way}, {len} bytes are those written");
        }
    });
}

#[test]
fn many_pages_of_a_batch_find_their_places() {
    each(|pair, way| {
        let (pages, len) = (1000_u64, 1000_u64);
        let size = (pages * len) as usize;
        let (source, target) =
            (region(&pair.one, size, Access::LOCAL), region(&pair.other, size, Access::WRITE));
        source.write_at(0, &pattern(size, 9));
        let tag = Tag::new(1);
        let counter = pair.other.domain().expect(tag, &[pair.one.domain().id()]).expect("the tag is free");
        let mut batch = BatchBuilder::default();
        let pair_of = batch.pair(&source, &target.key());
        // Backwards, so that none continues the one before.
        batch.pages(pair_of, (0..pages).map(|page| (page * len, (pages - 1 - page) * len)), len);
        let batch = batch.build().expect("all pages fit");
        for round in 1..=3 {
            block_on(pair.one.write(&batch, tag, soon())).expect(way);
            assert_eq!(block_on(counter.reached(round, soon())), Ok(()));
        }
        let (mut expected, arrived) = (pattern(size, 9), contents(&target));
        expected = expected.chunks(len as usize).rev().flatten().copied().collect();
        assert!(arrived == expected, "{way}: every page is where it belongs");
    });
}

#[test]
fn a_read_brings_what_the_peer_has() {
    each(|pair, way| {
        let len = (2 << 20) + 5;
        let (target, source) =
            (region(&pair.one, len, Access::LOCAL), region(&pair.other, len, Access::READ));
        let bytes = pattern(len, 77);
        source.write_at(0, &bytes);
        let batch = Batch::single((&target, 0), (&source.key(), 0), len as u64).expect("it fits");
        assert_eq!(pair.one.wait(pair.one.read(&batch, soon())), Ok(()), "{way}");
        assert!(contents(&target) == bytes, "{way}: the bytes are those there");
    });
}

#[test]
fn messages_arrive_in_order_in_both_directions() {
    each(|pair, way| {
        let (one, other) = (pair.one.domain().id(), pair.other.domain().id());
        let message = |number: usize| Bytes::from(pattern(number * 37 % 5000, number as u8));
        std::thread::scope(|scope| {
            for (from, to) in [(&pair.one, other), (&pair.other, one)] {
                scope.spawn(move || {
                    for number in 0..500 {
                        let op = from.send(to, Channel(2), message(number), soon());
                        block_on(op).expect("it is taken");
                    }
                });
                scope.spawn(move || {
                    for number in 0..500 {
                        let received = block_on(from.domain().receive(to, Channel(2), soon()));
                        assert_eq!(received, Ok(message(number)), "{way}: message {number}");
                    }
                });
            }
        });
    });
}

#[test]
fn ten_thousand_writes_may_be_outstanding() {
    each(|pair, way| {
        let (source, target) =
            (region(&pair.one, 512, Access::LOCAL), region(&pair.other, 512, Access::WRITE));
        let tag = Tag::new(4);
        let counter = pair.other.domain().expect(tag, &[pair.one.domain().id()]).expect("the tag is free");
        let batch = Batch::single((&source, 0), (&target.key(), 0), 512).expect("it fits");
        let ops: Vec<Op> = (0..10_000).map(|_| pair.one.write(&batch, tag, soon())).collect();
        assert_eq!(block_on(counter.reached(10_000, soon())), Ok(()), "{way}");
        assert!(ops.into_iter().all(|op| block_on(op) == Ok(())), "{way}: every write ended well");
    });
}

#[test]
fn threads_that_write_at_once_do_not_disturb_each_other() {
    each(|pair, way| {
        let threads = 4_u64;
        let tags: Vec<_> = (0..threads).map(Tag::new).collect();
        let from = pair.one.domain().id();
        let counters: Vec<_> =
            tags.iter().map(|tag| pair.other.domain().expect(*tag, &[from]).expect("free")).collect();
        std::thread::scope(|scope| {
            for (tag, spins) in tags.iter().zip([true, false, true, false]) {
                scope.spawn(move || {
                    let len = 70_000;
                    let source = region(&pair.one, len, Access::LOCAL);
                    let target = region(&pair.other, len, Access::WRITE);
                    let batch = Batch::single((&source, 0), (&target.key(), 0), len as u64).expect("it fits");
                    for round in 0..50 {
                        source.write_at(0, &pattern(len, round));
                        let op = pair.one.write(&batch, *tag, soon());
                        let ended = if spins { pair.one.wait(op) } else { block_on(op) };
                        assert_eq!(ended, Ok(()), "{way}");
                        assert!(contents(&target) == pattern(len, round), "{way}: the bytes of this round");
                    }
                });
            }
        });
        assert!(counters.iter().all(|counter| counter.count() == 50), "{way}");
    });
}

#[test]
fn both_may_connect_at_once() {
    for way in WAYS {
        let trust = Trust::default();
        let (one, other) = (way.end(&trust), way.end(&trust));
        let there = one.connect(other.domain().id(), &other.addresses(), soon());
        let back = other.connect(one.domain().id(), &one.addresses(), soon());
        assert_eq!(block_on(futures::future::join(there, back)), (Ok(()), Ok(())), "{way:?}");
        let pair = Pair { one, other };
        for (from, to) in [(&pair.one, &pair.other), (&pair.other, &pair.one)] {
            block_on(from.send(to.domain().id(), Channel(0), Bytes::from_static(b"hello"), soon()))
                .expect("it is taken");
        }
    }
}
