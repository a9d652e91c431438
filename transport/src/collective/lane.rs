//! A stream of segments from one rank to its right neighbour, with some of them on their way at a time.
//!
//! The receiver gives credit for each segment that it has read: a write of one byte, which the sender counts. Data is
//! counted by slot, since segments may overtake each other on several rails; credit of any slot is as good as another's.

use std::sync::Arc;

use super::CollectiveError;
use super::exchange::payload;
use super::slots::{HEADER_BYTES, LANE_SLOTS, SEGMENT_BYTES, Slots};
use super::waiting::{Patience, Wanted};
use crate::contract::{Batch, Key, Op, Region, Tag};
use crate::domain::Counter;

/// The end that sends.
pub(super) struct Outgoing {
    /// The right neighbour.
    rank: usize,
    staging: Arc<Region>,
    key: Key,
    tags: [Tag; LANE_SLOTS],
    credit: Counter,
    sent: u64,
    posted: [Option<Op>; LANE_SLOTS],
}

/// The end that receives.
pub(super) struct Incoming {
    /// The left neighbour.
    rank: usize,
    memory: Arc<Region>,
    counters: [Counter; LANE_SLOTS],
    credit: Batch,
    credit_tag: Tag,
    received: u64,
}

impl Outgoing {
    pub(super) fn new(
        rank: usize,
        staging: Arc<Region>,
        key: Key,
        tags: [Tag; LANE_SLOTS],
        credit: Counter,
    ) -> Self {
        Self { rank, staging, key, tags, credit, sent: 0, posted: Default::default() }
    }

    /// Whether a slot is free, or which credit will free one.
    pub(super) fn blocked(&self) -> Option<Wanted<'_>> {
        let count = (self.sent + 1).saturating_sub(LANE_SLOTS as u64);
        (self.credit.count() < count).then_some(Wanted { counter: &self.credit, count, rank: self.rank })
    }

    /// Sends a segment, for which a slot must be free.
    pub(super) fn send(&mut self, segment: &[u8], patience: &Patience<'_>) -> Result<(), CollectiveError> {
        debug_assert!(segment.len() <= SEGMENT_BYTES && self.blocked().is_none());
        let slot = (self.sent % LANE_SLOTS as u64) as usize;
        if let Some(op) = self.posted[slot].take() {
            patience.written(op, self.rank)?;
        }
        let at = Slots::segment(slot);
        self.staging.write_at(at, &(segment.len() as u64).to_le_bytes());
        self.staging.write_at(at + HEADER_BYTES, segment);
        let len = (HEADER_BYTES + segment.len()) as u64;
        let batch = Batch::single((&self.staging, at as u64), (&self.key, at as u64), len)
            .expect("slots have room for a segment");
        self.posted[slot] = Some(patience.transport.write(&batch, self.tags[slot], patience.deadline));
        self.sent += 1;
        Ok(())
    }
}

impl Incoming {
    pub(super) fn new(
        rank: usize,
        [memory, staging]: [&Arc<Region>; 2],
        key: &Key,
        credit_tag: Tag,
        counters: [Counter; LANE_SLOTS],
    ) -> Self {
        let at = Slots::credit() as u64;
        let credit = Batch::single((staging, at), (key, at), 1).expect("there is a place for credit");
        Self { rank, memory: Arc::clone(memory), counters, credit, credit_tag, received: 0 }
    }

    /// The arrival to wait for, if the next segment is not there.
    pub(super) fn blocked(&self) -> Option<Wanted<'_>> {
        let slots = LANE_SLOTS as u64;
        let counter = &self.counters[(self.received % slots) as usize];
        let count = self.received / slots + 1;
        (counter.count() < count).then_some(Wanted { counter, count, rank: self.rank })
    }

    /// Hands the next segment, which must be there and as long as expected, to `take`, and gives its slot back.
    pub(super) fn receive(
        &mut self,
        expected: usize,
        patience: &Patience<'_>,
        take: impl FnOnce(&[u8]),
    ) -> Result<(), CollectiveError> {
        debug_assert!(expected <= SEGMENT_BYTES && self.blocked().is_none());
        let at = Slots::segment((self.received % LANE_SLOTS as u64) as usize);
        take(payload(&self.memory, at, expected, self.rank)?);
        self.received += 1;
        // Whether it arrives is seen by the sender, which waits for it.
        drop(patience.transport.write(&self.credit, self.credit_tag, patience.deadline));
        Ok(())
    }
}
