//! Where the payload of a frame that is coming in goes, and how much of it is there.

use bytes::Bytes;

use super::buffers::Scatter;
use crate::core::{Link, Placement, ProtocolError, Target};

/// A payload that is coming in.
pub(super) struct Body {
    placement: Placement,
    len: usize,
    filled: usize,
    /// For payloads that have no place in a region.
    buffer: Vec<u8>,
}

impl Body {
    /// A payload of which nothing has come in yet.
    pub(super) fn new(placement: Placement) -> Self {
        let (len, buffered) = match &placement.target {
            Target::Regions(slices) => (slices.iter().map(crate::RegionSlice::len).sum(), 0),
            Target::Buffer(len) => (*len, *len),
            Target::Discard(len) => (*len, (*len).min(DISCARD)),
            Target::Nothing => (0, 0),
        };
        Self { placement, len, filled: 0, buffer: vec![0; buffered] }
    }

    /// Whether what is missing goes to a region.
    pub(super) fn is_for_region(&self) -> bool {
        self.missing() > 0 && matches!(self.placement.target, Target::Regions(_))
    }

    /// Asks the link whether the payload is still wanted; what is missing of one that is not is thrown away.
    pub(super) fn reconsider(&mut self, link: &mut Link) -> Result<(), ProtocolError> {
        if self.is_for_region() && !link.wants(&self.placement)? {
            self.placement.target = Target::Discard(self.len);
            self.buffer = vec![0; self.missing().min(DISCARD)];
        }
        Ok(())
    }

    /// How many bytes have yet to come.
    pub(super) const fn missing(&self) -> usize {
        self.len - self.filled
    }

    /// Lists where the missing bytes go; whether all of them have a place.
    pub(super) fn space(&mut self, list: &mut Scatter) -> bool {
        let missing = self.missing();
        match &self.placement.target {
            Target::Regions(slices) => {
                let mut skip = self.filled;
                for slice in slices {
                    if skip < slice.len() {
                        list.region(&slice.part(skip..slice.len()));
                    }
                    skip = skip.saturating_sub(slice.len());
                }
                true
            }
            // SAFETY: the buffer is on the heap, and untouched until `filled`.
            Target::Buffer(_) => unsafe {
                list.buffer(&mut self.buffer[self.filled..]);
                true
            },
            // SAFETY: as above.
            Target::Discard(_) => unsafe {
                let len = missing.min(self.buffer.len());
                list.buffer(&mut self.buffer[..len]);
                len == missing
            },
            Target::Nothing => true,
        }
    }

    /// `count` bytes came into the places listed; how many of them are the payload's.
    pub(super) fn filled(&mut self, count: usize) -> usize {
        let count = count.min(self.missing());
        self.filled += count;
        count
    }

    /// Copies what belongs to the payload from the front of `bytes`; how many that are.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(self.missing())];
        match &self.placement.target {
            Target::Regions(slices) => {
                let (mut skip, mut left) = (self.filled, bytes);
                for slice in slices {
                    if skip < slice.len() {
                        let (here, rest) = left.split_at(left.len().min(slice.len() - skip));
                        slice.part(skip..skip + here.len()).fill_from(here);
                        left = rest;
                    }
                    skip = skip.saturating_sub(slice.len());
                }
            }
            Target::Buffer(_) => {
                self.buffer[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
            }
            Target::Discard(_) | Target::Nothing => {}
        }
        self.filled += bytes.len();
        bytes.len()
    }

    /// The payload is there whole: what the link placed, with the bytes if they have no place in a region.
    pub(super) fn finish(self) -> (Placement, Option<Bytes>) {
        let buffered = matches!(self.placement.target, Target::Buffer(_)).then(|| Bytes::from(self.buffer));
        (self.placement, buffered)
    }
}

/// How much of a payload that is to be thrown away is read at once.
const DISCARD: usize = 64 * 1024;
