//! Rails that break are replaced, and what they carried arrives all the same.

use std::net::Shutdown;

use super::*;

/// Breaks one of a transport's rails, as a firewall that forgot a connection does; whether there was one.
fn break_rail(of: &Tcp) -> bool {
    let links = of.endpoint.links();
    let rail = links.rails.iter().find(|(_, rail)| !rail.closing);
    rail.is_some_and(|(_, rail)| rail.socket.shutdown(Shutdown::Both).is_ok())
}

fn rails_up(of: &Tcp) -> usize {
    of.stats().rails.len()
}

/// Every connection of a link has another.
fn names(of: &Tcp) -> std::collections::BTreeSet<u16> {
    of.stats().rails.iter().map(|rail| rail.rail).collect()
}

#[test]
fn as_many_rails_come_up_as_the_end_wants_that_wants_more() {
    for (caller, called) in [(1, 4), (4, 1)] {
        let trust = Trust::default();
        let one = Way { rails: caller, ..POLL }.end(&trust);
        let other = Way { rails: called, ..POLL }.end(&trust);
        connect(&one, &other).expect("they connect");
        eventually("four rails", || rails_up(&one) == 4 && rails_up(&other) == 4);
    }
}

#[test]
fn broken_rails_come_up_again() {
    for way in WAYS {
        let pair = way.pair();
        let rails = usize::from(way.rails);
        eventually("all rails", || rails_up(&pair.one) == rails && rails_up(&pair.other) == rails);
        for _ in 0..5 {
            let before = names(&pair.one);
            assert!(break_rail(&pair.other));
            eventually("another rail", || names(&pair.one) != before && rails_up(&pair.one) == rails);
            eventually("all rails", || names(&pair.one) == names(&pair.other));
        }
    }
}

#[test]
fn writes_arrive_whole_while_rails_break() {
    for way in WAYS {
        let pair = way.pair();
        let len = (5 << 20) + 3;
        let target = region(&pair.other, len, Access::WRITE);
        let tag = Tag::new(1);
        let counter = pair.other.domain().expect(tag, &[pair.one.domain().id()]).expect("the tag is free");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut ends = [&pair.one, &pair.other].into_iter().cycle();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    break_rail(ends.next().expect("a cycle has no end"));
                    std::thread::sleep(Duration::from_millis(7));
                }
            });
            for round in 0..20 {
                let source = region(&pair.one, len, Access::LOCAL);
                source.write_at(0, &pattern(len, round));
                let batch = Batch::single((&source, 0), (&target.key(), 0), len as u64).expect("it fits");
                let written = pair.one.wait(pair.one.write(&batch, tag, soon()));
                assert_eq!(written, Ok(()), "{way:?}, round {round}");
                assert_eq!(counter.count(), u64::from(round) + 1);
                assert!(contents(&target) == pattern(len, round), "{way:?}: the bytes of round {round}");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
