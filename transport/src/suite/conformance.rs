//! What the contract promises when nothing goes wrong but the request itself.

use bytes::Bytes;

use super::{Bench, Check, contents, pattern};
use crate::contract::{Access, Batch, BatchBuilder, Channel, Denial, Key, OpError, Tag};
use crate::domain::MAX_MESSAGE;

pub(super) const CHECKS: &[Check] = &[
    ("a write of any size arrives whole and is counted once", sizes),
    ("pages of a batch find their places", pages),
    ("a batch of a hundred thousand pages arrives", many_pages),
    ("many batches count in one tag", many_batches),
    ("writes in both directions do not disturb each other", both_directions),
    ("what is refused is not counted and leaves the link as it was", refusals),
    ("a tag counts while it is open and in its own epoch only", tags),
    ("a dropped region is reached by nobody", dropped_region),
    ("a read brings what is there, and is refused like a write", reads),
    ("messages keep their order on each channel", messages),
    ("a message that is too long is refused", long_message),
    ("statistics say what has been moved", statistics),
];

fn sizes(bench: &Bench<'_>) {
    for (number, bytes) in [1, 63, 4096, 65_537, 3 << 20].into_iter().enumerate() {
        let (source, target) = bench.source_and_target(bytes, number as u8);
        let tag = Tag::new(number as u64);
        let counter = bench.expect(tag);
        let op = bench.write(&source, &target, tag, bench.soon());
        assert_eq!(bench.wait(op), Ok(()), "{bytes} bytes");
        assert_eq!(counter.count(), 1, "{bytes} bytes");
        assert!(contents(&target) == contents(&source), "{bytes} bytes are there when they are counted");
    }
}

fn scattered(bench: &Bench<'_>, count: u64, len: u64) {
    let bytes = (count * len * 2) as usize;
    let (source, target) = bench.source_and_target(bytes, 3);
    let mut batch = BatchBuilder::default();
    let pair = batch.pair(&source, &target.key());
    batch.pages(pair, (0..count).map(|page| (2 * page * len, 2 * (count - 1 - page) * len)), len);
    let counter = bench.expect(Tag::new(1));
    let op = bench.one().write(&batch.build().expect("pages fit"), Tag::new(1), bench.soon());
    assert_eq!(bench.wait(op), Ok(()));
    assert_eq!(counter.count(), 1);
    let (sent, arrived) = (contents(&source), contents(&target));
    for page in 0..count {
        let (from, to) = ((2 * page * len) as usize, (2 * (count - 1 - page) * len) as usize);
        assert!(sent[from..][..len as usize] == arrived[to..][..len as usize], "page {page}");
        assert!(arrived[to + len as usize..][..len as usize].iter().all(|byte| *byte == 0), "beside {page}");
    }
}

fn pages(bench: &Bench<'_>) {
    scattered(bench, 300, 512);
}

fn many_pages(bench: &Bench<'_>) {
    scattered(bench, 112_000, 16);
}

fn many_batches(bench: &Bench<'_>) {
    let (source, target) = bench.source_and_target(1000, 1);
    let counter = bench.expect(Tag::new(1));
    let ops: Vec<_> = (0..200).map(|_| bench.write(&source, &target, Tag::new(1), bench.soon())).collect();
    assert_eq!(bench.wait(counter.reached(200, bench.soon())), Ok(()));
    ops.into_iter().for_each(|op| assert_eq!(bench.wait(op), Ok(())));
    assert_eq!((counter.count(), counter.count_from(bench.one_id())), (200, 200));
}

fn both_directions(bench: &Bench<'_>) {
    let (there, back) = (1 << 20, 1 << 20);
    let (source, target) = bench.source_and_target(there, 1);
    let reply = bench.region(bench.other(), back, Access::LOCAL);
    reply.write_at(0, &pattern(back, 2));
    let answer = bench.region(bench.one(), back, Access::WRITE);
    let arrived = bench.expect(Tag::new(1));
    let answered = bench.one().domain().expect(Tag::new(1), &[bench.other_id()]).expect("the tag is free");
    let batch = Batch::single((&reply, 0), (&answer.key(), 0), back as u64).expect("it fits");
    let ops = [
        bench.write(&source, &target, Tag::new(1), bench.soon()),
        bench.other().write(&batch, Tag::new(1), bench.soon()),
    ];
    ops.into_iter().for_each(|op| assert_eq!(bench.wait(op), Ok(())));
    assert_eq!((arrived.count(), answered.count()), (1, 1));
    assert!(contents(&target) == contents(&source) && contents(&answer) == contents(&reply));
}

fn refusals(bench: &Bench<'_>) {
    let (source, target) = bench.source_and_target(4096, 9);
    let sealed = bench.region(bench.other(), 4096, Access::READ);
    let counter = bench.expect(Tag::new(1));
    let forged = Key { capability: target.key().capability ^ 1, ..target.key() };
    // A key that claims more than there is.
    let long = Key { len: u64::MAX, ..target.key() };
    let attempts = [
        (forged, 0, Denial::UnknownKey),
        (long.clone(), 1, Denial::OutOfRange),
        (long, u64::MAX - 4096, Denial::OutOfRange),
        (sealed.key(), 0, Denial::NotAllowed),
    ];
    for (key, offset, denial) in attempts {
        let batch = Batch::single((&source, 0), (&key, offset), 4096).expect("the key allows it");
        let op = bench.one().write(&batch, Tag::new(1), bench.soon());
        assert_eq!(bench.wait(op), Err(OpError::AccessDenied(denial)));
    }
    assert_eq!(counter.count(), 0);
    assert!(contents(&sealed).iter().all(|byte| *byte == 0));
    let op = bench.write(&source, &target, Tag::new(1), bench.soon());
    assert_eq!(bench.wait(op), Ok(()));
    assert_eq!(counter.count(), 1);
}

fn tags(bench: &Bench<'_>) {
    let (source, target) = bench.source_and_target(100, 9);
    let tag = Tag { id: 5, epoch: 1 };
    let write = |tag| bench.wait(bench.write(&source, &target, tag, bench.soon()));
    assert_eq!(write(tag), Err(OpError::Cancelled), "not open yet");
    let counter = bench.expect(tag);
    assert_eq!(write(Tag { epoch: 0, ..tag }), Err(OpError::Cancelled), "of an earlier attempt");
    assert_eq!(write(tag), Ok(()));
    assert_eq!(counter.count(), 1);
    drop(counter);
    assert_eq!(write(tag), Err(OpError::Cancelled), "closed");
    assert_eq!(bench.expect(tag).count(), 0);
}

fn dropped_region(bench: &Bench<'_>) {
    let (source, target) = bench.source_and_target(100, 9);
    let counter = bench.expect(Tag::new(1));
    let batch = Batch::single((&source, 0), (&target.key(), 0), 100).expect("it fits");
    drop(target);
    let op = bench.one().write(&batch, Tag::new(1), bench.soon());
    assert_eq!(bench.wait(op), Err(OpError::AccessDenied(Denial::UnknownKey)));
    assert_eq!(counter.count(), 0);
}

fn reads(bench: &Bench<'_>) {
    let bytes = 300_000;
    let remote = bench.region(bench.other(), bytes, Access::READ);
    remote.write_at(0, &pattern(bytes, 4));
    let local = bench.region(bench.one(), bytes, Access::LOCAL);
    let mut batch = BatchBuilder::default();
    let pair = batch.pair(&local, &remote.key());
    batch.pages(pair, (0..30).map(|page| (page * 10_000, (29 - page) * 10_000)), 10_000);
    let op = bench.one().read(&batch.build().expect("pages fit"), bench.soon());
    assert_eq!(bench.wait(op), Ok(()));
    let (there, here) = (contents(&remote), contents(&local));
    assert!((0..30).all(|page| here[page * 10_000..][..10_000] == there[(29 - page) * 10_000..][..10_000]));
    let secret = bench.region(bench.other(), 100, Access::WRITE);
    let batch = Batch::single((&local, 0), (&secret.key(), 0), 100).expect("it fits");
    let op = bench.one().read(&batch, bench.soon());
    assert_eq!(bench.wait(op), Err(OpError::AccessDenied(Denial::NotAllowed)));
}

fn messages(bench: &Bench<'_>) {
    let channels = [Channel(1), Channel(7)];
    let message = |number: u32| Bytes::from(number.to_le_bytes().repeat(1 + number as usize % 50));
    let mut sent = Vec::new();
    for number in 0..300 {
        for channel in channels {
            sent.push(bench.one().send(bench.other_id(), channel, message(number), bench.soon()));
        }
    }
    for channel in channels {
        for number in 0..300 {
            let received = loop {
                let domain = bench.other().domain();
                match domain.try_receive(bench.one_id(), channel) {
                    Some(message) => break message,
                    None => {
                        let readable = domain.readable(bench.one_id(), channel, bench.soon());
                        assert_eq!(bench.wait(readable), Ok(()), "message {number} of {channel:?}");
                    }
                }
            };
            assert_eq!(received, message(number), "message {number} of {channel:?}");
        }
    }
    sent.into_iter().for_each(|op| assert_eq!(bench.wait(op), Ok(())));
}

fn long_message(bench: &Bench<'_>) {
    let send = |bytes: usize| {
        let message = Bytes::from(vec![1; bytes]);
        bench.wait(bench.one().send(bench.other_id(), Channel(1), message, bench.soon()))
    };
    assert_eq!(send(MAX_MESSAGE + 1), Err(OpError::Cancelled));
    assert_eq!(send(MAX_MESSAGE), Ok(()));
}

fn statistics(bench: &Bench<'_>) {
    let (source, target) = bench.source_and_target(50_000, 1);
    let _counter = bench.expect(Tag::new(1));
    let op = bench.write(&source, &target, Tag::new(1), bench.soon());
    assert_eq!(bench.wait(op), Ok(()));
    let (one, other) = (bench.one().stats(), bench.other().stats());
    assert_eq!((one.bytes_out, one.in_flight), (50_000, 0));
    assert_eq!(other.bytes_in, 50_000);
    assert!(one.rails.iter().any(|rail| rail.peer == bench.other_id()));
    let caps = bench.one().caps();
    assert!(caps.rails > 0 && caps.runs_per_batch > 0 && !caps.memory.is_empty());
}
