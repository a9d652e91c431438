//! Bytes that change as soon as they may: what is counted is what was given.

use super::*;
use crate::Counter;

const WRITES: usize = 64;
const TOGETHER: usize = 8;
const LEN: usize = 3 << 20;

/// Begins to write bytes of a kind; from where, and the operation.
fn post(pair: &Pair, target: &Region, at: usize, counters: &mut Vec<Counter>) -> (Region, Op) {
    let source = region(&pair.one, LEN, Access::LOCAL);
    source.write_at(0, &vec![at as u8 + 1; LEN]);
    let (tag, from) = (Tag::new(at as u64), [pair.one.domain().id()]);
    counters.push(pair.other.domain().expect(tag, &from).expect("the tag is free"));
    let batch = Batch::single((&source, 0), (&target.key(), (at * LEN) as u64), LEN as u64);
    let patience = Duration::from_micros(100 << (at * 5 % 9));
    let op = pair.one.write(&batch.expect("it fits"), tag, Instant::now() + patience);
    (source, op)
}

/// Writes whose deadlines pass before, while and after they are sent, and whose bytes are overwritten when they end.
#[test]
fn a_batch_whose_bytes_changed_on_the_way_is_not_counted() {
    for way in WAYS {
        let pair = way.pair();
        let target = region(&pair.other, WRITES * LEN, Access::WRITE);
        let (mut counters, mut results) = (Vec::new(), Vec::new());
        for group in 0..WRITES / TOGETHER {
            // More than sockets hold, so that most deadlines find a frame half on its way.
            let together = (0..TOGETHER).map(|one| group * TOGETHER + one);
            let writes: Vec<_> = together.map(|at| post(&pair, &target, at, &mut counters)).collect();
            for (source, op) in writes {
                results.push(block_on(op));
                source.write_at(0, &vec![0xEE; LEN]);
            }
        }
        // Nothing is on its way any more when a later batch has arrived over every rail there is now.
        let source = region(&pair.one, LEN, Access::LOCAL);
        let batch = Batch::single((&source, 0), (&target.key(), 0), 1).expect("it fits");
        let _counter =
            pair.other.domain().expect(Tag::new(999), &[pair.one.domain().id()]).expect("it is free");
        assert_eq!(block_on(pair.one.write(&batch, Tag::new(999), soon())), Ok(()), "{way:?}");
        std::thread::sleep(Duration::from_millis(300));
        let all = contents(&target);
        for (at, (counter, result)) in counters.iter().zip(&results).enumerate() {
            let written = &all[at * LEN + 1..(at + 1) * LEN];
            if counter.count() > 0 {
                let torn = written.iter().filter(|byte| **byte != at as u8 + 1).count();
                assert_eq!(torn, 0, "{way:?}: write {at}, {result:?}, is counted and has other bytes");
            } else {
                assert!(result.is_err(), "{way:?}: write {at} is done and was not counted");
            }
        }
    }
}
