//! The sending half of a rail: frames that the link has handed out and the socket has not taken whole.
//!
//! Asks the link late and for little, so that whichever rail is ready gets the next slice. Bytes of a write are read
//! under a claim; a write that ends with a frame half on its way takes the rail with it, since the rest of the frame
//! may be other bytes by now. Knows nothing of sockets.

use std::collections::VecDeque;
use std::time::Instant;

use super::buffers::Gather;
use crate::core::{Frame, Link, Payload, RailId};
use crate::{Claim, Completion};

/// What goes out over one rail.
#[derive(Default)]
pub(in crate::tcp) struct Outbound {
    frames: VecDeque<Frame>,
    /// How much of the first frame the socket has taken.
    taken: usize,
    /// Bytes of all frames that the socket has not taken.
    left: usize,
    /// For the bytes listed.
    claims: Vec<Claim>,
}

/// A write ended with a frame of it half on its way.
#[derive(Debug)]
pub(in crate::tcp) struct Torn;

impl Outbound {
    /// Takes frames from the link until there is enough for a call of the system; whether there is anything.
    pub(in crate::tcp) fn refill(&mut self, rail: RailId, link: &mut Link, now: Instant) -> bool {
        while self.left < ENOUGH && self.frames.len() < MOST_FRAMES {
            let Some(frame) = link.next_frame(rail, now) else { break };
            self.left += frame.len();
            self.frames.push_back(frame);
        }
        self.left > 0
    }

    /// Drops frames of writes that have ended, and of which nothing was sent; how many bytes they had.
    pub(in crate::tcp) fn drop_ended(&mut self) -> usize {
        let (before, mut begun) = (self.left, self.taken > 0);
        self.frames.retain(|frame| {
            let ended = frame.source.as_ref().is_some_and(Completion::is_ended);
            let keep = std::mem::take(&mut begun) || !ended;
            self.left -= if keep { 0 } else { frame.len() };
            keep
        });
        before - self.left
    }

    /// Lists what the socket is to take. Nothing else may be called until it has (`drained`), or has not (`release`).
    ///
    /// # Errors
    /// When the rest of a frame has lost its meaning.
    pub(in crate::tcp) fn contents(&mut self, list: &mut Gather) -> Result<(), Torn> {
        let mut skip = self.taken;
        for frame in &self.frames {
            if !list.has_room() {
                break;
            }
            match frame.source.as_ref().map(Completion::claim) {
                None => {}
                Some(Some(claim)) => self.claims.push(claim),
                Some(None) if skip > 0 => return Err(Torn),
                // Ended a moment ago: dropped the next time.
                Some(None) => break,
            }
            let head = &frame.head;
            if skip < head.len() {
                // SAFETY: frames stay where they are in the queue until `drained`.
                unsafe { list.buffer(&head[skip..]) };
            }
            skip = skip.saturating_sub(head.len());
            skip = payload(&frame.payload, skip, list);
        }
        Ok(())
    }

    /// The socket does not read what was listed any more.
    pub(in crate::tcp) fn release(&mut self) {
        self.claims.clear();
    }

    /// Whether a write waits for its bytes to be released.
    #[cfg(target_os = "linux")]
    pub(in crate::tcp) fn is_overdue(&self) -> bool {
        self.claims.iter().any(Claim::is_overdue)
    }

    /// The socket took `count` bytes of what was listed.
    pub(in crate::tcp) fn drained(&mut self, count: usize) {
        self.release();
        self.left -= count;
        self.taken += count;
        while let Some(first) = self.frames.front() {
            let len = first.len();
            if self.taken < len {
                return;
            }
            self.taken -= len;
            self.frames.pop_front();
        }
    }
}

/// Lists a payload without its first `skip` bytes; how many are left to skip behind it.
fn payload(payload: &Payload, mut skip: usize, list: &mut Gather) -> usize {
    match payload {
        Payload::None => {}
        Payload::Regions(slices) => {
            for slice in slices {
                if skip < slice.len() {
                    list.region(&slice.part(skip..slice.len()));
                }
                skip = skip.saturating_sub(slice.len());
            }
        }
        Payload::Bytes(bytes) => {
            if skip < bytes.len() {
                // SAFETY: the bytes are on the heap and kept by the frame.
                unsafe { list.buffer(&bytes[skip..]) };
            }
            skip = skip.saturating_sub(bytes.len());
        }
    }
    skip
}

/// As much as a socket usually takes at once.
const ENOUGH: usize = 256 * 1024;
const MOST_FRAMES: usize = 32;
