//! Data that goes around the ring of ranks in segments: every rank sends to its right and receives from its left.
//!
//! An operation is a number of steps; in each a rank sends one chunk of the data and receives the one before. What is
//! received in one step is sent in the next, and may be as soon as it is there: the segments of all steps are one
//! stream, so that the ring is never drained between steps.

use std::ops::Range;

use super::lane::{Incoming, Outgoing};
use super::slots::SEGMENT_BYTES;
use super::waiting::Patience;
use super::{CollectiveError, Element, Reduction};

/// What goes around: pure arithmetic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// How many chunks the data has: one for each rank.
    pub(super) chunks: usize,
    /// Which chunk is sent first; afterwards the one before, and so on.
    pub(super) first: usize,
    /// How many chunks are sent, and received.
    pub(super) sends: usize,
    pub(super) receives: usize,
    /// How many of those received first are reduced into what is there; the others replace it.
    pub(super) reduced: usize,
    /// Whether what is sent first must have been received first: in the middle of a chain.
    pub(super) forwards: bool,
    /// Bytes of the data, and of an element, which no cut divides.
    pub(super) bytes: usize,
    pub(super) element: usize,
}

impl Route {
    /// Segments of a chunk: as many for each, so that some may be empty.
    fn segments(&self) -> usize {
        self.chunk_bytes().div_ceil(SEGMENT_BYTES).max(1)
    }

    fn chunk_bytes(&self) -> usize {
        (self.bytes / self.element).div_ceil(self.chunks) * self.element
    }

    /// The bytes of the `item`-th segment that is sent. `item` counts segments over all steps.
    fn sent(&self, item: usize) -> Range<usize> {
        let (step, segment) = (item / self.segments(), item % self.segments());
        self.range((self.first + self.chunks * (1 + step / self.chunks) - step) % self.chunks, segment)
    }

    /// The bytes of the `item`-th segment that is received: in a ring one step ahead of what is sent.
    fn received(&self, item: usize) -> Range<usize> {
        if self.forwards || self.chunks == 1 { self.sent(item) } else { self.sent(item + self.segments()) }
    }

    fn range(&self, chunk: usize, segment: usize) -> Range<usize> {
        let begin = chunk * self.chunk_bytes();
        let end = (begin + self.chunk_bytes()).min(self.bytes);
        let start = begin + segment * SEGMENT_BYTES;
        start.min(end)..(start + SEGMENT_BYTES).min(end).max(start.min(end))
    }

    /// How many segments must have been received before the `item`-th is sent.
    fn needed(&self, item: usize) -> usize {
        if self.forwards { item + 1 } else { (item + 1).saturating_sub(self.segments()) }
    }
}

/// Sends and receives what `route` says.
pub(super) fn travel(
    route: &Route,
    data: &mut [u8],
    (incoming, outgoing): (&mut Incoming, &mut Outgoing),
    (element, reduction): (Element, Reduction),
    patience: &Patience<'_>,
) -> Result<(), CollectiveError> {
    let segments = route.segments();
    let (sends, receives) = (route.sends * segments, route.receives * segments);
    let (mut sent, mut received) = (0, 0);
    while sent < sends || received < receives {
        let may_send = sent < sends && route.needed(sent) <= received;
        if may_send && outgoing.blocked().is_none() {
            outgoing.send(&data[route.sent(sent)], patience)?;
            sent += 1;
        } else if received < receives && incoming.blocked().is_none() {
            let into = &mut data[route.received(received)];
            let reduces = received < route.reduced * segments;
            incoming.receive(into.len(), patience, |bytes| {
                if reduces { element.reduce(reduction, into, bytes) } else { into.copy_from_slice(bytes) }
            })?;
            received += 1;
        } else {
            wait(may_send.then_some(&*outgoing), (received < receives).then_some(&*incoming), patience)?;
        }
    }
    Ok(())
}

/// Waits until something can be sent or received.
fn wait(
    outgoing: Option<&Outgoing>,
    incoming: Option<&Incoming>,
    patience: &Patience<'_>,
) -> Result<(), CollectiveError> {
    let credit = outgoing.and_then(Outgoing::blocked);
    let arrival = incoming.and_then(Incoming::blocked);
    match (credit, arrival) {
        (Some(credit), Some(arrival)) => patience.either(credit, arrival),
        (Some(wanted), None) | (None, Some(wanted)) => patience.count(wanted),

        // What blocked a moment ago does no longer.
        (None, None) => Ok(()),
    }
}
