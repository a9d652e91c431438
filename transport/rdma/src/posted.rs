//! Work requests that a device has been given and has not completed.
//!
//! Pure bookkeeping. A queue pair does its requests in order, so a completion is of everything posted up to it; what
//! each needs is kept until then. Both the queue and the bytes on their way are bounded: what waits here may still be
//! given up at once, what a device has may not.

use std::collections::VecDeque;

/// What has been posted, with whatever `T` must be kept until it is completed.
#[derive(Debug)]
pub(crate) struct Posted<T> {
    entries: VecDeque<Entry<T>>,
    /// The number of the first entry.
    first: u64,
    requests: u32,
    bytes: u64,
    room: u32,
}

#[derive(Debug)]
struct Entry<T> {
    requests: u32,
    bytes: u64,
    kept: T,
}

impl<T> Posted<T> {
    /// For a queue of so many requests.
    pub(crate) const fn new(room: u32) -> Self {
        Self { entries: VecDeque::new(), first: 0, requests: 0, bytes: 0, room }
    }

    /// Whether so many requests, of so many bytes, may be posted now. However many bytes, they may when there is
    /// nothing else.
    pub(crate) const fn has_room(&self, requests: u32, bytes: u64) -> bool {
        self.requests + requests <= self.room && (self.bytes == 0 || self.bytes + bytes <= MAX_BYTES)
    }

    /// Notes what is posted; the number that its completion bears.
    pub(crate) fn post(&mut self, requests: u32, bytes: u64, kept: T) -> u64 {
        self.requests += requests;
        self.bytes += bytes;
        self.entries.push_back(Entry { requests, bytes, kept });
        self.first + self.entries.len() as u64 - 1
    }

    /// What is completed with this number: it, and all before. Nothing where there is no such number.
    pub(crate) fn completed(&mut self, number: u64) -> impl Iterator<Item = T> + '_ {
        let count = number.checked_sub(self.first).map_or(0, |before| before + 1);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let count = if count <= self.entries.len() { count } else { 0 };
        for entry in self.entries.iter().take(count) {
            self.requests -= entry.requests;
            self.bytes -= entry.bytes;
        }
        self.first += count as u64;
        self.entries.drain(..count).map(|entry| entry.kept)
    }

    /// Whether everything has been completed.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Some ten times what is on its way on a fast network; a tenth of a second on one of 40 MB/s.
const MAX_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_completion_is_of_all_that_was_posted_before() {
        let mut posted = Posted::new(10);
        let numbers: Vec<u64> = ["a", "b", "c"].into_iter().map(|kept| posted.post(2, 100, kept)).collect();
        assert_eq!(posted.completed(numbers[1]).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((posted.bytes, posted.is_empty()), (100, false));
        assert_eq!(posted.completed(numbers[2]).collect::<Vec<_>>(), ["c"]);
        assert!(posted.is_empty());
    }

    #[test]
    fn a_number_that_was_never_posted_or_is_completed_already_completes_nothing() {
        let mut posted = Posted::new(10);
        let number = posted.post(1, 0, ());
        assert_eq!(posted.completed(number + 1).count(), 0);
        assert_eq!(posted.completed(number).count(), 1);
        assert_eq!(posted.completed(number).count(), 0);
    }

    #[test]
    fn more_bytes_than_are_ever_on_their_way_go_alone() {
        let mut posted = Posted::new(10);
        assert!(posted.has_room(1, MAX_BYTES + 1));
        posted.post(1, 1, ());
        assert!(posted.has_room(1, MAX_BYTES - 1));
        assert!(!posted.has_room(1, MAX_BYTES));
        assert!(!posted.has_room(10, 0), "the queue is full before");
    }

    proptest! {
        #[test]
        fn room_comes_back_with_completions(steps in prop::collection::vec((1_u32..5, 0_u64..1000, any::<bool>()), 0..200)) {
            let mut posted = Posted::new(64);
            let mut waiting = VecDeque::new();
            for (requests, bytes, complete) in steps {
                if posted.has_room(requests, bytes) {
                    waiting.push_back((posted.post(requests, bytes, (requests, bytes)), requests, bytes));
                }
                if complete && let Some((number, ..)) = waiting.pop_front() {
                    prop_assert_eq!(posted.completed(number).count(), 1);
                }
                let held: u32 = waiting.iter().map(|(_, requests, _)| requests).sum();
                prop_assert!(held <= 64);
                prop_assert_eq!(posted.bytes, waiting.iter().map(|(.., bytes)| bytes).sum::<u64>());
            }
        }
    }
}
