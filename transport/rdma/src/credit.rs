//! How many packets may be on their way in each direction: what has no buffer at its destination breaks a connection.
//!
//! Pure bookkeeping. A packet and the number that comes with a write take a buffer each. Buffers that were posted again
//! are told with any packet, and when many have not been told, in one of their own; for that, a few are kept back: an end
//! that may send nothing else still says what it has room for, and the other goes on.

use mlxcel_transport::core::ProtocolError;

/// The buffers of both ends of a connection.
#[derive(Debug)]
pub(crate) struct Credit {
    /// Buffers of the peer that are free.
    left: u32,
    /// Of how many.
    theirs: u32,
    /// Our buffers that have been posted again, and the peer has not been told.
    untold: u32,
    /// Of how many.
    ours: u32,
}

impl Credit {
    pub(crate) const fn new(ours: u32, theirs: u32) -> Self {
        Self { left: theirs, theirs, untold: 0, ours }
    }

    /// Whether so many buffers of the peer may be used.
    pub(crate) const fn allows(&self, buffers: u32) -> bool {
        self.left >= buffers + KEPT_BACK
    }

    /// Whether a packet that only tells what was posted again is due, and may be sent.
    pub(crate) const fn must_be_told(&self) -> bool {
        self.untold >= self.ours / 4 && self.left > 0
    }

    /// Uses buffers of the peer.
    pub(crate) fn spend(&mut self, buffers: u32) {
        self.left = self.left.checked_sub(buffers).expect("what is sent was allowed");
    }

    /// One of our buffers has been posted again.
    pub(crate) const fn posted_again(&mut self) {
        self.untold += 1;
    }

    /// What to tell the peer now.
    pub(crate) fn tell(&mut self) -> u16 {
        let told = u16::try_from(self.untold).unwrap_or(u16::MAX);
        self.untold -= u32::from(told);
        told
    }

    /// The peer has posted buffers again.
    pub(crate) fn hear(&mut self, buffers: u16) -> Result<(), ProtocolError> {
        let left = self.left + u32::from(buffers);
        if left > self.theirs {
            return Err(ProtocolError("it has more room than it said"));
        }
        self.left = left;
        Ok(())
    }
}

/// One would do: an end tells again only after a quarter of its buffers was used, which the other does not do before it
/// has been told.
const KEPT_BACK: u32 = 2;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// What is on its way: packets that carry this much credit.
    type Way = VecDeque<u16>;

    /// An end sends what it may: data, if it has any, and what must be told.
    fn send(end: &mut Credit, wanted: &mut u32, way: &mut Way) -> bool {
        let data = *wanted > 0 && end.allows(1);
        if !data && !end.must_be_told() {
            return false;
        }
        *wanted -= u32::from(data);
        end.spend(1);
        way.push_back(end.tell());
        true
    }

    fn receive(end: &mut Credit, way: &mut Way) -> bool {
        let Some(credit) = way.pop_front() else { return false };
        end.posted_again();
        end.hear(credit).expect("the other end is correct");
        true
    }

    proptest! {
        #[test]
        fn two_ends_never_overrun_each_other_and_never_stop(
            room in 16_u32..80,
            (here, there) in (0_u32..2000, 0_u32..2000),
            order in prop::collection::vec(0_usize..4, 0..4000),
        ) {
            let (mut one, mut other) = (Credit::new(room, room), Credit::new(room, room));
            let (mut here, mut there) = (here, there);
            let (mut out, mut back) = (Way::new(), Way::new());
            let mut steps = order.into_iter();
            loop {
                let moved = match steps.next() {
                    Some(0) => send(&mut one, &mut here, &mut out),
                    Some(1) => send(&mut other, &mut there, &mut back),
                    Some(2) => receive(&mut other, &mut out),
                    Some(_) => receive(&mut one, &mut back),
                    // Until nothing moves any more.
                    None => {
                        let sent = send(&mut one, &mut here, &mut out) | send(&mut other, &mut there, &mut back);
                        let received = receive(&mut other, &mut out) | receive(&mut one, &mut back);
                        if !(sent || received) {
                            break;
                        }
                        true
                    }
                };
                let _ = moved;
                prop_assert!(out.len() <= room as usize && back.len() <= room as usize);
            }
            prop_assert_eq!((here, there), (0, 0), "everything was sent");
        }
    }

    #[test]
    fn a_peer_that_claims_more_room_than_it_has_is_found_out() {
        let mut credit = Credit::new(16, 16);
        credit.spend(3);
        assert_eq!(credit.hear(3), Ok(()));
        assert!(credit.hear(1).is_err());
    }
}
