//! A wire between two endpoints: an ordered stream of frames each way, with a rate and a delay.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::contract::PeerId;
use crate::core::{Frame, Payload, Placement, RailId};

/// What a wire is like.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// From one end to the other, at least.
    pub delay: Duration,
    /// Up to this much more, by chance: wires overtake each other.
    pub jitter: Duration,
    /// Bytes a second.
    pub rate: f64,
    /// How many of a million frames break their wire, somewhere in the middle.
    pub breaks_per_million: u32,
}

impl Default for Conditions {
    fn default() -> Self {
        let (delay, jitter) = (Duration::from_micros(50), Duration::from_micros(20));
        Self { delay, jitter, rate: 1e9, breaks_per_million: 0 }
    }
}

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) rail: RailId,
    pub(super) ends: [PeerId; 2],
    /// From the first end to the second, and back.
    pub(super) ways: [Way; 2],
    pub(super) conditions: Conditions,
    pub(super) swallows: bool,
}

#[derive(Debug, Default)]
pub(super) struct Way {
    pub(super) flying: VecDeque<Flying>,
    free_at: Option<Instant>,
    last_arrival: Option<Instant>,
}

/// A frame on its way.
#[derive(Debug)]
pub(super) struct Flying {
    pub(super) frame: Frame,
    pub(super) arrives: Instant,
    /// The wire breaks when this frame has arrived in part.
    pub(super) breaks: bool,
    /// What its receiver said, once its head has arrived.
    pub(super) placement: Option<Placement>,
}

impl Wire {
    pub(super) fn joins(&self, one: PeerId, other: PeerId) -> bool {
        self.ends == [one, other] || self.ends == [other, one]
    }

    pub(super) fn has(&self, end: PeerId) -> bool {
        self.ends.contains(&end)
    }

    /// The way that leads away from `end`.
    pub(super) fn from(&mut self, end: PeerId) -> &mut Way {
        &mut self.ways[usize::from(self.ends[1] == end)]
    }
}

impl Way {
    /// Whether a sender would find room in its buffer.
    pub(super) fn has_room(&self) -> bool {
        self.flying.len() < IN_FLIGHT
    }

    pub(super) fn send(
        &mut self,
        frame: Frame,
        conditions: &Conditions,
        now: Instant,
        (jitter, breaks): (Duration, bool),
    ) {
        let takes = Duration::from_secs_f64(frame.len() as f64 / conditions.rate);
        let free = self.free_at.map_or(now, |free| free.max(now)) + takes;
        // A stream keeps its order.
        let arrives = (free + conditions.delay + jitter).max(self.last_arrival.unwrap_or(now));
        (self.free_at, self.last_arrival) = (Some(free), Some(arrives));
        self.flying.push_back(Flying { frame, arrives, breaks, placement: None });
    }

    pub(super) fn next_arrival(&self) -> Option<Instant> {
        self.flying.front().map(|flying| flying.arrives)
    }
}

/// The payload as one piece, copied when it arrives: sources may change once their operation has ended.
pub(super) fn payload_bytes(payload: &Payload) -> Bytes {
    match payload {
        Payload::None => Bytes::new(),
        Payload::Bytes(bytes) => bytes.clone(),
        Payload::Regions(slices) => {
            let mut bytes = vec![0; payload.len()];
            let mut at = 0;
            for slice in slices {
                slice.copy_to(&mut bytes[at..at + slice.len()]);
                at += slice.len();
            }
            bytes.into()
        }
    }
}

const IN_FLIGHT: usize = 8;
