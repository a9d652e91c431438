//! Who runs before whom, and so who gives way.
//!
//! Only an order. The last in it is the victim when blocks run out: the lowest level, of equals the latest
//! arrival. The first is never a victim, so that it always comes to its end, and then the next one is first.

use std::cmp::Reverse;
use std::time::Duration;

use super::member::Running;
use super::plan::SequenceId;

/// Sorts by who goes first.
pub(super) fn rank(running: &mut [Running]) {
    running.sort_unstable_by_key(key);
}

fn key(running: &Running) -> (Reverse<i64>, Duration, SequenceId) {
    (Reverse(running.level), running.member.arrival, running.member.sequence)
}
