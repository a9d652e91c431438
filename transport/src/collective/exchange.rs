//! A round in which every rank writes some bytes to every other rank's slot for it.
//!
//! Slots are used in turns, two for each writer, and need no acknowledgement: who begins round n + 2 has taken part in
//! round n + 1 with everyone, and so everyone had read round n.

use std::ops::Range;
use std::sync::Arc;

use super::CollectiveError;
use super::slots::{EXCHANGE_BYTES, HEADER_BYTES, Slots, room};
use super::waiting::{Patience, Wanted};
use crate::contract::{Batch, Key, Op, Region, Tag};
use crate::domain::Counter;

/// The slots of all ranks as one of them sees them.
pub(super) struct Exchange {
    rank: usize,
    /// What the others write to, and what is sent from.
    memory: [Arc<Region>; 2],
    /// Of the others' memory.
    keys: Vec<Option<Key>>,
    /// Of what the others write, by parity.
    counters: Vec<Option<[Counter; 2]>>,
    /// With which this rank writes, by parity.
    tags: [Tag; 2],
    /// Rounds so far, by parity.
    rounds: [u64; 2],
    posted: [Vec<(usize, Op)>; 2],
}

impl Exchange {
    pub(super) fn new(
        rank: usize,
        memory: [Arc<Region>; 2],
        keys: Vec<Option<Key>>,
        counters: Vec<Option<[Counter; 2]>>,
        tags: [Tag; 2],
    ) -> Self {
        Self { rank, memory, keys, counters, tags, rounds: [0; 2], posted: Default::default() }
    }

    /// Writes `part(rank)` of `bytes` to each other rank and hands what each rank sent here to `take`, in rank order;
    /// of this rank, what it would send itself. All parts have one length.
    pub(super) fn round(
        &mut self,
        bytes: &[u8],
        part: impl Fn(usize) -> Range<usize>,
        patience: &Patience<'_>,
        mut take: impl FnMut(usize, &[u8]),
    ) -> Result<(), CollectiveError> {
        debug_assert!(part(0).len() <= EXCHANGE_BYTES, "more goes around the ring");
        let parity = usize::from(self.rounds[0] > self.rounds[1]);
        // The peers have counted these two rounds ago; their acknowledgements may be a moment behind.
        for (rank, op) in self.posted[parity].drain(..) {
            patience.written(op, rank)?;
        }
        self.post(parity, bytes, &part, patience);
        self.rounds[parity] += 1;
        for rank in 0..self.keys.len() {
            if rank == self.rank {
                take(rank, &bytes[part(rank)]);
            } else {
                take(rank, self.arrival(rank, parity, part(rank).len(), patience)?);
            }
        }
        Ok(())
    }

    fn post(
        &mut self,
        parity: usize,
        bytes: &[u8],
        part: &impl Fn(usize) -> Range<usize>,
        patience: &Patience<'_>,
    ) {
        let staging = &self.memory[1];
        let mut offset = Slots { ranks: self.keys.len() }.staging(parity);
        let mut staged: Option<(Range<usize>, usize)> = None;
        for (rank, key) in self.keys.iter().enumerate() {
            let Some(key) = key else { continue };
            let range = part(rank);
            let at = match &staged {
                Some((last, at)) if *last == range => *at,
                _ => {
                    staging.write_at(offset, &(range.len() as u64).to_le_bytes());
                    staging.write_at(offset + HEADER_BYTES, &bytes[range.clone()]);
                    offset += room(range.len());
                    offset - room(range.len())
                }
            };
            let to = Slots::exchange(self.rank, parity) as u64;
            let len = (HEADER_BYTES + range.len()) as u64;
            staged = Some((range, at));
            let batch =
                Batch::single((staging, at as u64), (key, to), len).expect("slots have room for a part");
            let op = patience.transport.write(&batch, self.tags[parity], patience.deadline);
            self.posted[parity].push((rank, op));
        }
    }

    fn arrival(
        &self,
        rank: usize,
        parity: usize,
        len: usize,
        patience: &Patience<'_>,
    ) -> Result<&[u8], CollectiveError> {
        let counter = &self.counters[rank].as_ref().expect("every other rank is counted")[parity];
        patience.count(Wanted { counter, count: self.rounds[parity], rank })?;
        payload(&self.memory[0], Slots::exchange(rank, parity), len, rank)
    }
}

/// What the slot at `at` carries, whose writer has been counted and does not write to it again before it hears of this
/// rank.
///
/// # Panics
/// When `memory` has not `expected` bytes there.
pub(super) fn payload(
    memory: &Region,
    at: usize,
    expected: usize,
    rank: usize,
) -> Result<&[u8], CollectiveError> {
    let slot = memory.slice(at..at + HEADER_BYTES + expected);
    let mut len = [0; 8];
    slot.part(0..8).copy_to(&mut len);
    let theirs = u64::from_le_bytes(len);
    if theirs != expected as u64 {
        return Err(CollectiveError::Disagreement { rank, theirs, ours: expected as u64 });
    }
    // SAFETY: the slot was checked to have a header and `expected` bytes, which `memory` keeps alive; the peer's write
    // was counted, and it writes here again only after this rank's next round or credit.
    Ok(unsafe { std::slice::from_raw_parts(slot.as_ptr().add(HEADER_BYTES), expected) })
}
