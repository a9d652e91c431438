//! Bytes that change as soon as they may: what is counted is what was given.

use mlxcel_transport::Counter;

use super::*;

const WRITES: usize = 32;
const TOGETHER: usize = 8;
const LEN: usize = 1 << 20;

/// Begins to write bytes of a kind; from where, and the operation.
fn post(pair: &Pair, target: &Region, at: usize, counters: &mut Vec<Counter>) -> (Region, Op) {
    let source = region(&pair.one, LEN, Access::LOCAL);
    source.write_at(0, &vec![at as u8 + 1; LEN]);
    let (tag, from) = (Tag::new(at as u64), [pair.one.domain().id()]);
    counters.push(pair.other.domain().expect(tag, &from).expect("the tag is free"));
    let batch = Batch::single((&source, 0), (&target.key(), (at * LEN) as u64), LEN as u64);
    let patience = Duration::from_millis(1 << (at * 5 % 9));
    let op = pair.one.write(&batch.expect("it fits"), tag, Instant::now() + patience);
    (source, op)
}

/// Writes whose deadlines pass before, while and after they are posted, and whose bytes are overwritten when they end.
#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_batch_whose_bytes_changed_on_the_way_is_not_counted() {
    let pair = Pair::connected();
    let target = region(&pair.other, WRITES * LEN, Access::WRITE);
    let (mut counters, mut results) = (Vec::new(), Vec::new());
    for group in 0..WRITES / TOGETHER {
        let together = (0..TOGETHER).map(|one| group * TOGETHER + one);
        let writes: Vec<_> = together.map(|at| post(&pair, &target, at, &mut counters)).collect();
        for (source, op) in writes {
            results.push(block_on(op));
            source.write_at(0, &vec![0xEE; LEN]);
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    let all = contents(&target);
    for (at, (counter, result)) in counters.iter().zip(&results).enumerate() {
        if counter.count() > 0 {
            let written = &all[at * LEN..(at + 1) * LEN];
            assert!(
                written.iter().all(|byte| *byte == at as u8 + 1),
                "write {at}, {result:?}, has other bytes"
            );
        } else {
            assert!(result.is_err(), "write {at} is done and was not counted");
        }
    }
    let done = results.iter().filter(|result| result.is_ok()).count();
    println!("{done} of {WRITES} were done in time");
}
