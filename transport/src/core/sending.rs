//! Which frame a rail sends next.
//!
//! Control frames first, then what was lost with a rail, then small items, then large ones a slice at a time. Small
//! ones go ahead of large ones that wait, but not for ever.

use std::collections::VecDeque;
use std::time::Instant;

use super::frame::{Frame, Header, Payload, Verb};
use super::link::Link;
use super::outgoing::Outgoing;
use super::rails::RailId;

/// What is to be sent.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) control: VecDeque<Header>,
    /// Slices that were lost with their rail.
    pub(super) again: VecDeque<(u64, u32)>,
    small: VecDeque<u64>,
    large: VecDeque<u64>,
    /// Bytes of slices that have never been sent.
    pub(super) unsent: u64,
    /// Small items in a row that went ahead of large ones.
    ahead: u32,
}

impl Queues {
    pub(super) fn add(&mut self, item: u64, outgoing: &Outgoing) {
        self.unsent += outgoing.bytes;
        let queue = if outgoing.slices() == 1 { &mut self.small } else { &mut self.large };
        queue.push_back(item);
    }

    fn next_item(&mut self) -> Option<u64> {
        let small = !self.small.is_empty() && (self.large.is_empty() || self.ahead < SMALL_AHEAD);
        self.ahead = if small { self.ahead + 1 } else { 0 };
        if small { self.small.pop_front() } else { self.large.pop_front() }
    }
}

impl Link {
    /// What `rail` sends next, if anything. To be sent whole, whatever happens to the link meanwhile.
    pub fn next_frame(&mut self, rail: RailId, now: Instant) -> Option<Frame> {
        self.next_control(rail, now).or_else(|| self.next_load(rail, now))
    }

    /// As [`next_frame`](Self::next_frame), but without payload: for transports that have a way of its own for what must
    /// not wait behind payload. Only for links that never have a second rail: of several, the loss of one must be told
    /// ahead of the payload that goes again.
    pub fn next_control(&mut self, rail: RailId, now: Instant) -> Option<Frame> {
        // A rail that is not up carries nothing but its link's good-bye.
        if self.rails.get(rail).is_none() && self.lost.is_none() {
            return None;
        }
        let frame = self.control_frame(rail)?;
        self.rails.handed(rail, frame.len(), now);
        Some(frame)
    }

    /// As [`next_frame`](Self::next_frame), but with payload only: slices, messages, requests.
    pub fn next_load(&mut self, rail: RailId, now: Instant) -> Option<Frame> {
        self.rails.get(rail)?;
        if self.lost.is_some() {
            return None;
        }
        let frame = self.item_frame(rail)?;
        self.rails.handed(rail, frame.len(), now);
        Some(frame)
    }

    /// A frame, or a part of one, has been handed to the network.
    pub fn sent(&mut self, rail: RailId, bytes: usize, now: Instant) {
        self.rails.sent(rail, bytes, now);
    }

    /// Whether any rail has something to send.
    #[must_use]
    pub fn has_frames(&self) -> bool {
        let queues = &self.queues;
        let items = queues.small.is_empty() && queues.large.is_empty() && queues.again.is_empty();
        let signs = self.rails.all().iter().any(|rail| rail.sign || !rail.announce.is_empty());
        !items || !queues.control.is_empty() || signs
    }

    fn control_frame(&mut self, rail: RailId) -> Option<Frame> {
        if let Some(signs) = self.rails.get(rail) {
            if let Some(down) = signs.announce.pop_front() {
                let header = Header { slice: u32::from(down), ..Header::new(Verb::RailDown, 0) };
                return Some(Frame::plain(header, Payload::None));
            }
            if std::mem::take(&mut signs.sign) {
                return Some(Frame::plain(Header::new(Verb::Alive, 0), Payload::None));
            }
        }
        if let Some(header) = self.queues.control.pop_front() {
            return Some(Frame::plain(header, Payload::None));
        }
        if self.lost.is_some() {
            return None;
        }
        let (channel, read) = self.domain.take_credit(self.peer)?;
        let mut header = Header { offset: read, ..Header::new(Verb::Credit, 0) };
        header.tag.id = u64::from(channel.0);
        Some(Frame::plain(header, Payload::None))
    }

    fn item_frame(&mut self, rail: RailId) -> Option<Frame> {
        while let Some((item, slice)) = self.queues.again.pop_front() {
            if let Some(outgoing) = self.outgoing.get_mut(&item) {
                return Some(outgoing.again(item, slice, rail));
            }
        }
        if self.rails.yields(rail, self.queues.unsent, self.config.slice_bytes) {
            return None;
        }
        while let Some(item) = self.queues.next_item() {
            let Some(outgoing) = self.outgoing.get_mut(&item) else { continue };
            if outgoing.done.is_ended() && !matches!(outgoing.what, super::outgoing::What::Message { .. }) {
                self.give_up(item);
                continue;
            }
            let frame = outgoing.next_frame(item, rail);
            self.queues.unsent = self.queues.unsent.saturating_sub(frame.payload.len() as u64);
            if outgoing.has_more() {
                self.queues.large.push_front(item);
            }
            return Some(frame);
        }
        self.queues.unsent = 0;
        None
    }
}

/// Small items that go ahead before a large one has its turn.
const SMALL_AHEAD: u32 = 16;
