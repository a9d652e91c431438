//! What is left of the contract when something breaks: everything ends, in time, and nothing is half there.

use std::time::Duration;

use bytes::Bytes;

use super::{Bench, Check, contents, pattern};
use crate::contract::{Access, Batch, Channel, Op, OpError, Tag};
use crate::domain::PeerState;

pub(super) const CHECKS: &[Check] = &[
    ("a peer that dies with writes in flight is lost within a second", killed),
    ("a good-bye ends what waits on both sides", good_bye),
    ("ten thousand operations at once all end well", ten_thousand),
    ("every operation of a storm of deadlines ends by its own", deadlines),
    ("a reader that does not read holds up its channel and nothing else", slow_reader),
    ("a region that is dropped under load refuses the rest", dropped_under_load),
    ("a counted batch is never torn", torn),
];

/// A second, and what a busy machine takes to notice.
const A_SECOND: Duration = Duration::from_millis(1800);

fn killed(bench: &Bench<'_>) {
    let (source, target) = bench.source_and_target(1 << 20, 1);
    let counter = bench.expect(Tag::new(1));
    let arrival = counter.reached(u64::MAX, bench.soon());
    let writes: Vec<Op> = (0..64).map(|_| bench.write(&source, &target, Tag::new(1), bench.soon())).collect();
    if !bench.lab.kill_other(&bench.ends) {
        println!("this lab cannot kill a peer; processes are killed elsewhere");
        return;
    }
    bench.pass(A_SECOND);
    for op in writes {
        let ended = op.outcome().expect("everything has ended a second after the death");
        assert!(matches!(ended, Ok(()) | Err(OpError::PeerLost)), "{ended:?}");
    }
    assert!(matches!(bench.one().domain().peer_state(bench.other_id()), PeerState::Lost(_)));
    let late = bench.write(&source, &target, Tag::new(1), bench.soon());
    assert_eq!(bench.wait(late), Err(OpError::PeerLost));
    drop(arrival);
}

fn good_bye(bench: &Bench<'_>) {
    let counter = bench.expect(Tag::new(1));
    let arrival = counter.reached(1, bench.soon());
    let message = bench.one().domain().readable(bench.other_id(), Channel(1), bench.soon());
    bench.one().disconnect(bench.other_id());
    assert_eq!(bench.wait(arrival), Err(OpError::PeerLost));
    assert_eq!(bench.wait(message), Err(OpError::PeerLost));
}

fn ten_thousand(bench: &Bench<'_>) {
    let (source, target) = bench.source_and_target(64, 1);
    let counter = bench.expect(Tag::new(1));
    let batch = Batch::single((&source, 0), (&target.key(), 0), 64).expect("it fits");
    let deadline = bench.within(Duration::from_secs(60));
    let ops: Vec<Op> = (0..10_000).map(|_| bench.one().write(&batch, Tag::new(1), deadline)).collect();
    assert_eq!(bench.wait(counter.reached(10_000, deadline)), Ok(()));
    ops.into_iter().for_each(|op| assert_eq!(bench.wait(op), Ok(())));
    assert_eq!(bench.one().stats().in_flight, 0);
}

fn deadlines(bench: &Bench<'_>) {
    let (source, target) = bench.source_and_target(1 << 20, 1);
    let _counter = bench.expect(Tag::new(1));
    let deadline = |number: u64| bench.within(Duration::from_micros(number * 100));
    let ops: Vec<Op> =
        (0..500).map(|number| bench.write(&source, &target, Tag::new(1), deadline(number))).collect();
    bench.pass(A_SECOND);
    for op in ops {
        let ended = op.outcome().expect("every deadline has passed");
        assert!(matches!(ended, Ok(()) | Err(OpError::Timeout)), "{ended:?}");
    }
    // The link is as good as before.
    let op = bench.write(&source, &target, Tag::new(1), bench.soon());
    assert_eq!(bench.wait(op), Ok(()));
    assert!(contents(&target) == contents(&source));
}

fn slow_reader(bench: &Bench<'_>) {
    let deadline = bench.within(Duration::from_millis(300));
    let send = |channel| bench.one().send(bench.other_id(), channel, Bytes::from(vec![0; 60_000]), deadline);
    let sent: Vec<Op> = (0..10).map(|_| send(Channel(1))).collect();
    let beside = bench.one().send(bench.other_id(), Channel(2), Bytes::from_static(b"hi"), bench.soon());
    assert_eq!(bench.wait(beside), Ok(()));
    let (source, target) = bench.source_and_target(100_000, 1);
    let _counter = bench.expect(Tag::new(1));
    let op = bench.write(&source, &target, Tag::new(1), bench.soon());
    assert_eq!(bench.wait(op), Ok(()));
    let ended: Vec<_> = sent.into_iter().map(|op| bench.wait(op)).collect();
    assert_eq!(ended[..4], [Ok(()); 4], "what the window holds is taken");
    assert_eq!(ended[4..], [Err(OpError::Timeout); 6]);
}

fn dropped_under_load(bench: &Bench<'_>) {
    let (source, target) = bench.source_and_target(4 << 20, 1);
    let counter = bench.expect(Tag::new(1));
    let ops: Vec<Op> = (0..32).map(|_| bench.write(&source, &target, Tag::new(1), bench.soon())).collect();
    bench.pass(Duration::from_millis(2));
    drop(target);
    let ended: Vec<_> = ops.into_iter().map(|op| bench.wait(op)).collect();
    let done = ended.iter().filter(|result| result.is_ok()).count() as u64;
    assert!(ended.iter().all(|result| matches!(result, Ok(()) | Err(OpError::AccessDenied(_)))), "{ended:?}");
    assert_eq!(counter.count(), done, "as many are counted as were told so");
}

/// Each batch carries one byte over and over: whatever is there when the counter has moved is of one batch.
fn torn(bench: &Bench<'_>) {
    let bytes = 700_000;
    let target = bench.region(bench.other(), bytes, Access::WRITE);
    let counter = bench.expect(Tag::new(1));
    for round in 1..=20_u8 {
        let source = bench.region(bench.one(), bytes, Access::LOCAL);
        source.write_at(0, &pattern(bytes, round));
        let op = bench.write(&source, &target, Tag::new(1), bench.soon());
        assert_eq!(bench.wait(counter.reached(u64::from(round), bench.soon())), Ok(()));
        assert!(contents(&target) == pattern(bytes, round), "round {round} is whole when it is counted");
        assert_eq!(bench.wait(op), Ok(()));
    }
}
