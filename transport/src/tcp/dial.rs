//! When to open which connection to a peer that we connected to.
//!
//! First a search: the peer's addresses in turn, each with a head start over the next (RFC 8305), until one answers.
//! Then upkeep: rails to the address that answered, as many as are wanted, broken ones again after a while. Pure:
//! sockets and handshakes are `greet`'s, and whether the link is lost is decided by the link.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ConnectError;

/// The connections to one peer that are ours to open.
#[derive(Debug)]
pub(super) struct Dial {
    phase: Phase,
    /// Attempts in progress.
    running: u16,
    /// No attempt begins before.
    not_before: Instant,
}

#[derive(Debug)]
enum Phase {
    Searching { addresses: Vec<SocketAddr>, next: usize, refusal: Option<ConnectError> },
    Keeping { address: SocketAddr, wanted: u16, failures: u32 },
}

impl Dial {
    /// A search through these addresses, the most promising first.
    pub(super) fn new(addresses: Vec<SocketAddr>, now: Instant) -> Self {
        let phase = Phase::Searching { addresses, next: 0, refusal: None };
        Self { phase, running: 0, not_before: now }
    }

    /// Where to open a connection now, given how many rails there are. To be asked again until there is nothing.
    pub(super) fn next(&mut self, rails: u16, now: Instant) -> Option<SocketAddr> {
        if now < self.not_before {
            return None;
        }
        let address = match &mut self.phase {
            Phase::Searching { addresses, next, .. } => {
                let address = *addresses.get(*next)?;
                *next += 1;
                self.not_before = now + HEAD_START;
                address
            }
            Phase::Keeping { address, wanted, .. } if rails + self.running < *wanted => *address,
            Phase::Keeping { .. } => return None,
        };
        self.running += 1;
        Some(address)
    }

    /// When `next` may have something, if nothing else happens before.
    pub(super) fn next_timeout(&self, rails: u16) -> Option<Instant> {
        let more = match &self.phase {
            Phase::Searching { addresses, next, .. } => *next < addresses.len(),
            Phase::Keeping { wanted, .. } => rails + self.running < *wanted,
        };
        more.then_some(self.not_before)
    }

    /// A connection became a rail of a link whose ends want as many as `wanted`.
    pub(super) fn connected(&mut self, address: SocketAddr, wanted: u16, now: Instant) {
        self.running -= 1;
        self.not_before = now;
        match &mut self.phase {
            Phase::Keeping { wanted: known, failures, .. } => {
                *known = wanted;
                *failures = 0;
            }
            Phase::Searching { .. } => self.phase = Phase::Keeping { address, wanted, failures: 0 },
        }
    }

    /// An attempt failed. The reason to give up, if there is nothing left to try.
    pub(super) fn failed(&mut self, error: ConnectError, now: Instant) -> Option<ConnectError> {
        self.running -= 1;
        match &mut self.phase {
            Phase::Searching { addresses, next, refusal } => {
                self.not_before = now;
                // Somebody who answers and refuses says more than nobody.
                let kept = refusal.take();
                let telling = |error: &ConnectError| !matches!(error, ConnectError::Unreachable { .. });
                let kept =
                    refusal.insert(kept.filter(|kept| telling(kept) || !telling(&error)).unwrap_or(error));
                (self.running == 0 && *next == addresses.len()).then(|| kept.clone())
            }
            Phase::Keeping { failures, .. } => {
                self.not_before = now + (FIRST_PAUSE * 2_u32.pow((*failures).min(8))).min(LONGEST_PAUSE);
                *failures += 1;
                None
            }
        }
    }
}

/// RFC 8305's recommended delay between attempts.
const HEAD_START: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// A few attempts must fit into the time after which the link is lost.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn nobody(port: u16) -> ConnectError {
        ConnectError::Unreachable { address: address(port).to_string(), detail: "refused".into() }
    }

    fn untrusted() -> ConnectError {
        ConnectError::Untrusted { address: "there".into(), detail: "who are you".into() }
    }

    #[test]
    fn addresses_are_tried_in_turn_each_with_a_head_start() {
        let now = Instant::now();
        let mut dial = Dial::new(vec![address(1), address(2)], now);
        assert_eq!(dial.next(0, now), Some(address(1)));
        assert_eq!(dial.next(0, now), None);
        assert_eq!(dial.next_timeout(0), Some(now + HEAD_START));
        assert_eq!(dial.next(0, now + HEAD_START), Some(address(2)));
        assert_eq!(dial.next_timeout(0), None);
    }

    #[test]
    fn a_failure_makes_way_for_the_next_address_at_once() {
        let now = Instant::now();
        let mut dial = Dial::new(vec![address(1), address(2)], now);
        dial.next(0, now);
        assert_eq!(dial.failed(nobody(1), now), None);
        assert_eq!(dial.next(0, now), Some(address(2)));
        assert_eq!(dial.failed(nobody(2), now), Some(nobody(1)));
    }

    #[test]
    fn the_most_telling_refusal_is_reported() {
        let now = Instant::now();
        let mut dial = Dial::new(vec![address(1), address(2), address(3)], now);
        for (refusal, last) in [(nobody(1), false), (untrusted(), false), (nobody(3), true)] {
            dial.next(0, now).expect("an address is left");
            assert_eq!(dial.failed(refusal, now), last.then(untrusted));
        }
    }

    #[test]
    fn rails_go_where_somebody_answered_until_there_are_enough() {
        let now = Instant::now();
        let mut dial = Dial::new(vec![address(1), address(2)], now);
        dial.next(0, now);
        dial.failed(nobody(1), now);
        dial.next(0, now);
        dial.connected(address(2), 3, now);
        assert_eq!(dial.next(1, now), Some(address(2)));
        assert_eq!(dial.next(1, now), Some(address(2)));
        assert_eq!(dial.next(1, now), None);
        dial.connected(address(2), 3, now);
        assert_eq!(dial.next_timeout(2), None);
    }

    #[test]
    fn broken_rails_are_opened_again_with_growing_pauses() {
        let now = Instant::now();
        let mut dial = Dial::new(vec![address(1)], now);
        dial.next(0, now);
        dial.connected(address(1), 1, now);
        let mut at = now;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(dial.next(0, at), Some(address(1)));
            assert_eq!(dial.failed(nobody(1), at), None);
            let next = dial.next_timeout(0).expect("a rail is missing");
            pauses.push(next - at);
            at = next;
        }
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert!(pauses.is_sorted() && pauses[7] == LONGEST_PAUSE);
    }
}
