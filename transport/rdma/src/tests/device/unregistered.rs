//! Memory that the device may not lock: its bytes go through packets.

use super::*;

/// Linux's number of the right to lock more memory than the limit.
const CAP_IPC_LOCK: u32 = 14;
/// The version of the interface below that has two words of rights.
const VERSION: u32 = 0x2008_0522;

/// Takes from this thread, and those it starts, the right to lock more than this.
fn limit_locked_memory(bytes: u64) {
    let mut header = [VERSION, 0];
    // Effective, permitted and inheritable rights, twice.
    let mut rights = [0_u32; 6];
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structures are as large as the kernel's.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_mut_ptr(), rights.as_mut_ptr()), 0);
        (rights[0], rights[1]) = (rights[0] & !(1 << CAP_IPC_LOCK), rights[1] & !(1 << CAP_IPC_LOCK));
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_mut_ptr(), rights.as_ptr()), 0);
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit), 0);
    }
}

fn write_and_read() {
    // Enough for the buffers of both ends.
    limit_locked_memory(2 << 20);
    let pair = Pair::connected();
    let bytes = 3 << 20;
    let (source, target) =
        (region(&pair.one, bytes, Access::LOCAL), region(&pair.other, bytes, Access::READ_WRITE));
    assert!(source.memory().attachments().is_empty() && target.memory().attachments().is_empty());
    source.write_at(0, &pattern(bytes, 8));
    let counter = pair.other.domain().expect(Tag::new(1), &[pair.one.domain().id()]).expect("it is free");
    let batch = Batch::single((&source, 0), (&target.key(), 0), bytes as u64).expect("it fits");
    assert_eq!(block_on(pair.one.write(&batch, Tag::new(1), soon())), Ok(()));
    assert_eq!((counter.count(), contents(&target) == contents(&source)), (1, true));
    source.write_at(0, &vec![0; bytes]);
    assert_eq!(block_on(pair.one.read(&batch, soon())), Ok(()));
    assert!(contents(&source) == contents(&target));
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn memory_that_cannot_be_registered_goes_through_packets() {
    // Rights are a thread's; the limit is lifted for the tests that follow.
    let outcome = std::thread::spawn(write_and_read).join();
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }, 0);
    outcome.expect("both went well");
}
