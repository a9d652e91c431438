//! What has arrived in part, and what has been dealt with.
//!
//! Pure bookkeeping, bounded whatever a peer sends: items are numbered by the sender, who has a bounded number of them
//! unacknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use smallvec::SmallVec;

use super::ProtocolError;
use super::rails::RailId;
use crate::contract::{Channel, Denial, Tag};
use crate::domain::{Grant, Message, WINDOW};

/// How an item was dealt with, as an acknowledgement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Counted, delivered or answered.
    Done,
    /// Its tag is not open, or it was given up.
    Unwanted,
    /// Refused.
    Denied(Denial),
}

impl Status {
    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::Unwanted => 1,
            Self::Denied(denial) => 16 + denial as u32,
        }
    }

    pub(super) fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Done),
            1 => Some(Self::Unwanted),
            _ => Denial::from_code(u8::try_from(code.checked_sub(16)?).ok()?).map(Self::Denied),
        }
    }
}

/// A batch of which some slices are there.
#[derive(Debug)]
pub(super) struct Partial {
    /// What it counts in; `None` for an answer, which its read counts.
    pub(super) tag: Option<Tag>,
    pub(super) request: u64,
    slices: u32,
    missing: u32,
    /// A bit for each slice that is there or being placed.
    taken: SmallVec<[u64; 1]>,
    /// The regions it goes to.
    pub(super) grants: SmallVec<[Grant; 2]>,
    pub(super) bytes: u64,
}

/// A slice on its way into place.
#[derive(Clone, Copy, Debug)]
struct Placing {
    rail: RailId,
    item: u64,
    slice: u32,
    bytes: u32,
}

#[derive(Debug, Default)]
pub(super) struct Arrivals {
    pub(super) partials: HashMap<u64, Partial>,
    placing: HashMap<u64, Placing>,
    next_token: u64,
    settled: Settled,
    channels: HashMap<Channel, Ordering>,
}

/// Items that were dealt with: all below a number, and some above. What was not simply done is remembered for as long
/// as its sender may ask again.
#[derive(Debug, Default)]
struct Settled {
    below: u64,
    above: BTreeSet<u64>,
    otherwise: BTreeMap<u64, Status>,
}

/// Messages of a channel that came ahead of others.
#[derive(Debug, Default)]
struct Ordering {
    next: u64,
    ahead: BTreeMap<u64, Bytes>,
    cost: u64,
}

impl Partial {
    /// Whether the slice is to be placed: it is not there, and not being placed.
    fn take(&mut self, slice: u32) -> bool {
        let (word, bit) = (slice as usize / 64, 1 << (slice % 64));
        let wanted = self.taken[word] & bit == 0;
        self.taken[word] |= bit;
        wanted
    }

    fn release(&mut self, slice: u32) {
        self.taken[slice as usize / 64] &= !(1 << (slice % 64));
    }
}

impl Arrivals {
    /// How an item was dealt with, if it was.
    pub(super) fn settled(&self, item: u64) -> Option<Status> {
        let settled = item < self.settled.below || self.settled.above.contains(&item);
        settled.then(|| self.settled.otherwise.get(&item).copied().unwrap_or(Status::Done))
    }

    pub(super) fn settle(&mut self, item: u64, status: Status) -> Result<(), ProtocolError> {
        self.partials.remove(&item);
        let settled = &mut self.settled;
        if status != Status::Done {
            settled.otherwise.insert(item, status);
            if settled.otherwise.len() > MAX_REMEMBERED {
                settled.otherwise.pop_first();
            }
        }
        if item >= settled.below {
            settled.above.insert(item);
        }
        while settled.above.remove(&settled.below) {
            settled.below += 1;
        }
        let fits = settled.above.len() <= MAX_OPEN;
        fits.then_some(()).ok_or(ProtocolError("it leaves too many items open"))
    }

    /// The batch that a slice belongs to, known or new.
    pub(super) fn partial(
        &mut self,
        item: u64,
        slices: u32,
        new: impl FnOnce() -> (Option<Tag>, u64),
    ) -> Result<&mut Partial, ProtocolError> {
        if slices > MAX_SLICES {
            return Err(ProtocolError("a batch has too many slices"));
        }
        if self.partials.len() >= MAX_OPEN && !self.partials.contains_key(&item) {
            return Err(ProtocolError("it has too many batches on their way"));
        }
        let partial = self.partials.entry(item).or_insert_with(|| {
            let (tag, request) = new();
            let taken = SmallVec::from_elem(0, slices.div_ceil(64) as usize);
            Partial { tag, request, slices, missing: slices, taken, grants: SmallVec::new(), bytes: 0 }
        });
        let same = partial.slices == slices;
        same.then_some(partial).ok_or(ProtocolError("the slices of a batch disagree on how many there are"))
    }

    /// A name for the placing of a slice, unless it is there or being placed.
    pub(super) fn begin(&mut self, rail: RailId, item: u64, slice: u32, bytes: u32) -> Option<u64> {
        if !self.partials.get_mut(&item)?.take(slice) {
            return None;
        }
        self.next_token += 1;
        self.placing.insert(self.next_token, Placing { rail, item, slice, bytes });
        Some(self.next_token)
    }

    /// Whether what is being placed is still wanted.
    pub(super) fn placing_of(&self, token: u64) -> Option<&Partial> {
        self.partials.get(&self.placing.get(&token)?.item)
    }

    /// A slice is in place: its batch's number, if that is whole now.
    pub(super) fn finish(&mut self, token: u64) -> Option<u64> {
        let placing = self.placing.remove(&token)?;
        let partial = self.partials.get_mut(&placing.item)?;
        partial.missing -= 1;
        partial.bytes += u64::from(placing.bytes);
        (partial.missing == 0).then_some(placing.item)
    }

    /// Nothing more of this rail is placed: what was on its way there will come again.
    pub(super) fn rail_down(&mut self, rail: RailId) {
        let partials = &mut self.partials;
        self.placing.retain(|_, placing| {
            if placing.rail == rail
                && let Some(partial) = partials.get_mut(&placing.item)
            {
                partial.release(placing.slice);
            }
            placing.rail != rail
        });
    }

    /// Puts a message into its order: those that can be read now.
    pub(super) fn order(
        &mut self,
        channel: Channel,
        number: u64,
        message: Bytes,
    ) -> Result<Vec<Bytes>, ProtocolError> {
        if self.channels.len() >= MAX_CHANNELS && !self.channels.contains_key(&channel) {
            return Err(ProtocolError("it uses too many channels"));
        }
        let order = self.channels.entry(channel).or_default();
        if number < order.next || order.ahead.contains_key(&number) {
            return Err(ProtocolError("two messages have one number"));
        }
        let cost = |message: &Bytes| Message(message.clone()).cost();
        order.cost += cost(&message);
        order.ahead.insert(number, message);
        if order.cost > WINDOW {
            return Err(ProtocolError("it sends more messages than there is room for"));
        }
        let mut ready = Vec::new();
        while let Some(message) = order.ahead.remove(&order.next) {
            order.next += 1;
            order.cost -= cost(&message);
            ready.push(message);
        }
        Ok(ready)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

const MAX_SLICES: u32 = 1 << 20;
const MAX_OPEN: usize = 1 << 16;
const MAX_REMEMBERED: usize = 1 << 16;
const MAX_CHANNELS: usize = 256;
