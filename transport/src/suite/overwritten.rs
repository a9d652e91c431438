//! Bytes that change as soon as they may: what is counted is what was given.

use std::time::Duration;

use super::{Bench, Lab, contents};
use crate::contract::{Access, Batch, Op, OpError, Region, Tag};
use crate::domain::Counter;

/// How many writes are posted before any is waited for.
const TOGETHER: usize = 8;

/// What a way of moving bytes needs so that most deadlines find a write half on its way.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many writes.
    pub writes: usize,
    /// Bytes of each: together more than what lies between the two ends can hold.
    pub bytes: usize,
    /// The shortest time that a write is given; the longest is 256 times as long.
    pub patience: Duration,
}

/// Checks writes whose deadlines pass before, while and after they are sent, and whose bytes are overwritten when they
/// end: the one that is counted is whole, the one that is not has failed.
///
/// # Panics
/// With what was broken.
pub fn check(lab: &dyn Lab, load: Load) {
    let bench = Bench::new(lab);
    let target = bench.region(bench.other(), load.writes * load.bytes, Access::WRITE);
    let mut ended = Vec::new();
    for first in (0..load.writes).step_by(TOGETHER) {
        let posted: Vec<_> = (first..first + TOGETHER).map(|at| post(&bench, load, &target, at)).collect();
        for (source, counter, op) in posted {
            ended.push((counter, bench.wait(op)));
            source.write_at(0, &vec![0xEE; load.bytes]);
        }
    }
    settle(&bench, load.writes);
    let done = ended.iter().filter(|(_, result)| result.is_ok()).count();
    println!("{done} of {} were done in time", load.writes);
    for (at, (written, (counter, result))) in contents(&target).chunks(load.bytes).zip(ended).enumerate() {
        is_whole_if_counted(at, written, &counter, result);
    }
}

/// Begins to write bytes of a kind: from where, what counts it, and the operation.
fn post(bench: &Bench<'_>, load: Load, target: &Region, at: usize) -> (Region, Counter, Op) {
    let source = bench.region(bench.one(), load.bytes, Access::LOCAL);
    source.write_at(0, &vec![byte_of(at); load.bytes]);
    let tag = Tag::new(at as u64);
    let counter = bench.expect(tag);
    let there = (at * load.bytes) as u64;
    let batch = Batch::single((&source, 0), (&target.key(), there), load.bytes as u64).expect("it fits");
    let op = bench.one().write(&batch, tag, bench.within(load.patience * (1 << (at * 5 % 9))));
    (source, counter, op)
}

/// Nothing is on its way any more when a later batch has arrived over every rail there is now.
fn settle(bench: &Bench<'_>, free: usize) {
    let (source, target) = bench.source_and_target(1 << 20, 1);
    let _counter = bench.expect(Tag::new(free as u64));
    let op = bench.write(&source, &target, Tag::new(free as u64), bench.soon());
    assert_eq!(bench.wait(op), Ok(()));
    bench.pass(Duration::from_millis(300));
}

fn is_whole_if_counted(at: usize, written: &[u8], counter: &Counter, result: Result<(), OpError>) {
    if counter.count() > 0 {
        let others = written.iter().filter(|byte| **byte != byte_of(at)).count();
        assert_eq!(others, 0, "write {at}, {result:?}, is counted and has other bytes");
    } else {
        assert!(result.is_err(), "write {at} is done and was not counted");
    }
}

fn byte_of(at: usize) -> u8 {
    at as u8 + 1
}
