//! What becomes of memory that a peer's device may reach.

use std::sync::Weak;

use mlxcel_transport::{Denial, RegionMemory};

use super::*;

/// A pair, and a region of the second that the first has written to.
fn written() -> (Pair, Region, Region) {
    let pair = Pair::connected();
    let (source, target) =
        (region(&pair.one, 50_000, Access::LOCAL), region(&pair.other, 50_000, Access::READ_WRITE));
    assert_eq!(write(&pair, &source, &target), Ok(()));
    (pair, source, target)
}

fn write(pair: &Pair, source: &Region, target: &Region) -> Result<(), OpError> {
    let _counter =
        pair.other.domain().expect(Tag::new(1), &[pair.one.domain().id()]).expect("the tag is free");
    let batch = Batch::single((source, 0), (&target.key(), 0), source.len() as u64).expect("it fits");
    block_on(pair.one.write(&batch, Tag::new(1), soon()))
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_region_that_was_dropped_is_reached_by_nobody_who_had_reached_it() {
    let (pair, source, target) = written();
    let read = Batch::single((&source, 0), (&target.key(), 0), 50_000).expect("it fits");
    let written = read.clone();
    assert_eq!(block_on(pair.one.read(&read, soon())), Ok(()));
    drop(target);
    let _counter =
        pair.other.domain().expect(Tag::new(2), &[pair.one.domain().id()]).expect("the tag is free");
    let denied = Err(OpError::AccessDenied(Denial::UnknownKey));
    assert_eq!(block_on(pair.one.write(&written, Tag::new(2), soon())), denied);
    // Whoever reads is told by the owner, which looks now and then.
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(block_on(pair.one.read(&read, soon())), denied);
    let other = region(&pair.other, 50_000, Access::WRITE);
    assert_eq!(write(&pair, &source, &other), Ok(()), "the link is as good as before");
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn memory_is_given_back_when_the_peer_has_let_go_of_it() {
    let (_pair, _source, target) = written();
    let memory: Weak<RegionMemory> = Arc::downgrade(target.memory());
    drop(target);
    eventually("the memory's end", || memory.upgrade().is_none());
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn memory_is_given_back_when_the_peer_is_lost() {
    let (pair, _source, target) = written();
    let memory = Arc::downgrade(target.memory());
    pair.one.disconnect(pair.other.domain().id());
    drop(target);
    eventually("the memory's end", || memory.upgrade().is_none());
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn regions_of_one_memory_share_a_registration_only_with_the_same_rights() {
    let end = plain();
    let memory = Arc::new(vec![0_u8; 1 << 16]);
    let part = |from: usize, len: usize, access| {
        let start = std::ptr::NonNull::from(&memory[from]);
        // SAFETY: the vector lives until the region's memory goes, and nobody looks at it meanwhile.
        let memory = unsafe { Memory::external(start, len, MemoryKind::Host, Arc::clone(&memory)) };
        end.register(memory.expect("it is not empty"), access).expect("it is host memory")
    };
    let whole = part(0, 1 << 16, Access::WRITE);
    let (within, other) = (part(4096, 4096, Access::WRITE), part(4096, 4096, Access::READ));
    let key = |region: &Region, access| {
        let registered = end.shared.adapter.reach.register(region.memory(), access);
        registered.expect("it is registered").remote_key()
    };
    assert_eq!(key(&whole, Access::WRITE), key(&within, Access::WRITE));
    assert_ne!(key(&whole, Access::WRITE), key(&other, Access::READ));
}
