//! What the device moves itself, and what goes through packets.

use mlxcel_transport::BatchBuilder;

use super::*;

/// Pages of a batch, as long as this, to their places in reverse.
fn pages(pair: &Pair, count: u64, len: u64) {
    let bytes = (count * len * 2) as usize;
    let (source, target) =
        (region(&pair.one, bytes, Access::LOCAL), region(&pair.other, bytes, Access::WRITE));
    source.write_at(0, &pattern(bytes, 3));
    let mut batch = BatchBuilder::default();
    let names = batch.pair(&source, &target.key());
    batch.pages(names, (0..count).map(|page| (2 * page * len, 2 * (count - 1 - page) * len)), len);
    let counter =
        pair.other.domain().expect(Tag::new(len), &[pair.one.domain().id()]).expect("the tag is free");
    let op = pair.one.write(&batch.build().expect("pages fit"), Tag::new(len), soon());
    assert_eq!(block_on(op), Ok(()));
    assert_eq!(counter.count(), 1);
    let (sent, arrived) = (contents(&source), contents(&target));
    for page in 0..count {
        let (from, to) = ((2 * page * len) as usize, (2 * (count - 1 - page) * len) as usize);
        assert!(sent[from..][..len as usize] == arrived[to..][..len as usize], "page {page} of {len} bytes");
        assert!(arrived[to + len as usize..][..len as usize].iter().all(|byte| *byte == 0), "beside {page}");
    }
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn pages_of_every_size_find_their_places() {
    let pair = Pair::connected();
    // Through packets; written one by one; more to a frame than a queue has room for at once.
    [(500, 100), (300, 1024), (150, 4096), (20, 60_000)]
        .into_iter()
        .for_each(|(count, len)| pages(&pair, count, len));
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_read_is_the_devices_own_and_any_length() {
    let pair = Pair::connected();
    assert!(pair.one.caps().native_read && pair.one.caps().native_immediate);
    let bytes = 5 << 20;
    let (remote, local) = (region(&pair.other, bytes, Access::READ), region(&pair.one, bytes, Access::LOCAL));
    remote.write_at(0, &pattern(bytes, 5));
    let batch = Batch::single((&local, 0), (&remote.key(), 0), bytes as u64).expect("it fits");
    let reads: Vec<Op> = (0..4).map(|_| pair.one.read(&batch, soon())).collect();
    reads.into_iter().for_each(|op| assert_eq!(block_on(op), Ok(())));
    assert!(contents(&local) == contents(&remote));
    assert_eq!(pair.one.stats().bytes_in, 4 * bytes as u64);
    assert_eq!(pair.other.stats().bytes_out, 0, "the peer sent nothing itself");
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn memory_that_was_registered_with_the_domain_alone_is_reached_too() {
    let pair = Pair::connected();
    let alone =
        |end: &Rdma, access| end.domain().register(Memory::zeroed(200_000).expect("there is memory"), access);
    let (source, target) = (alone(&pair.one, Access::LOCAL), alone(&pair.other, Access::READ_WRITE));
    source.write_at(0, &pattern(200_000, 6));
    let counter =
        pair.other.domain().expect(Tag::new(1), &[pair.one.domain().id()]).expect("the tag is free");
    let batch = Batch::single((&source, 0), (&target.key(), 0), 200_000).expect("it fits");
    assert_eq!(block_on(pair.one.write(&batch, Tag::new(1), soon())), Ok(()));
    assert_eq!((counter.count(), contents(&target) == contents(&source)), (1, true));
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn writes_reads_and_messages_at_once_do_not_disturb_each_other() {
    let pair = Pair::connected();
    let bytes = 300_000;
    let (source, target) =
        (region(&pair.one, bytes, Access::LOCAL), region(&pair.other, bytes, Access::READ_WRITE));
    let back = region(&pair.one, bytes, Access::LOCAL);
    source.write_at(0, &pattern(bytes, 7));
    target.write_at(0, &pattern(bytes, 7));
    let counter =
        pair.other.domain().expect(Tag::new(1), &[pair.one.domain().id()]).expect("the tag is free");
    let write = Batch::single((&source, 0), (&target.key(), 0), bytes as u64).expect("it fits");
    let read = Batch::single((&back, 0), (&target.key(), 0), bytes as u64).expect("it fits");
    let mut ops = Vec::new();
    for number in 0..30_u32 {
        ops.push(pair.one.write(&write, Tag::new(1), soon()));
        ops.push(pair.one.read(&read, soon()));
        let message = Bytes::from(number.to_le_bytes().repeat(100));
        ops.push(pair.one.send(pair.other.domain().id(), Channel(1), message, soon()));
    }
    ops.into_iter().for_each(|op| assert_eq!(block_on(op), Ok(())));
    for number in 0..30_u32 {
        let message = block_on(pair.other.domain().receive(pair.one.domain().id(), Channel(1), soon()));
        assert_eq!(message.expect("it came"), number.to_le_bytes().repeat(100));
    }
    assert_eq!((counter.count(), contents(&back) == contents(&source)), (30, true));
}
