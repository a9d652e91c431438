//! Who has nothing to do, sleeps.

use super::*;

/// Processor time of this process so far.
fn used() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure has room, and all zeros is a value of it.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn connected_ends_that_are_idle_take_no_processor() {
    let pair = Pair::connected();
    // A caller that drove and went away without a word is noticed.
    pair.one.progress();
    std::thread::sleep(Duration::from_millis(100));
    let (begun, before) = (Instant::now(), used());
    std::thread::sleep(Duration::from_secs(2));
    let (passed, used) = (begun.elapsed(), used() - before);
    println!("{:.1}% of a processor", 100.0 * used.as_secs_f64() / passed.as_secs_f64());
    assert!(used < passed / 10, "{used:?} of {passed:?}");
    assert_eq!(pair.one.domain().peers().len(), 1, "and are alive");
}
