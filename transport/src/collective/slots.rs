//! How the memory of a rank is cut into slots: of what peers write to it, and of what it sends.

/// Bytes ahead of what a slot carries: how many there are. A cache line, so that what follows is aligned.
pub(super) const HEADER_BYTES: usize = 64;
/// The most that a rank sends to another in one exchange.
pub(super) const EXCHANGE_BYTES: usize = 256 * 1024;
/// The most that goes around the ring in one piece.
pub(super) const SEGMENT_BYTES: usize = 512 * 1024;
/// Segments on their way to a neighbour at a time.
pub(super) const LANE_SLOTS: usize = 6;

/// Where things lie in the memory that peers write to, and in that which is sent from, for a group of `ranks`.
///
/// Both have the segments of a lane first (from the left neighbour, to the right one), then a place for credit, then
/// two parities of exchanges: incoming a slot for each rank, outgoing room for a part for each rank.
#[derive(Clone, Copy)]
pub(super) struct Slots {
    pub(super) ranks: usize,
}

impl Slots {
    pub(super) const fn segment(slot: usize) -> usize {
        slot * (HEADER_BYTES + SEGMENT_BYTES)
    }

    /// Nobody reads credit: that it arrives says all.
    pub(super) const fn credit() -> usize {
        Self::segment(LANE_SLOTS)
    }

    pub(super) const fn exchange(from: usize, parity: usize) -> usize {
        Self::credit() + HEADER_BYTES + (2 * from + parity) * (HEADER_BYTES + EXCHANGE_BYTES)
    }

    pub(super) const fn incoming_bytes(self) -> usize {
        Self::exchange(self.ranks, 0)
    }

    /// Where the parts of an exchange are put together: `EXCHANGE_BYTES` in all, and a header for each.
    pub(super) const fn staging(self, parity: usize) -> usize {
        Self::credit() + HEADER_BYTES + parity * (self.ranks * 2 * HEADER_BYTES + EXCHANGE_BYTES)
    }

    pub(super) const fn staging_bytes(self) -> usize {
        self.staging(2)
    }
}

/// Bytes from one part to the next, so that each begins on a cache line.
pub(super) const fn room(part_bytes: usize) -> usize {
    HEADER_BYTES + part_bytes.next_multiple_of(HEADER_BYTES)
}
