//! Copies of frames, in pieces that are used again.
//!
//! QUIC sends again what is lost, from bytes that it must own, and those of a write may change as soon as the write has
//! ended: so they are copied, under a claim. Fresh memory for this would cost as much as the copy, in page faults.

use std::sync::Arc;

use bytes::Bytes;
use mlxcel_transport::RegionSlice;
use mlxcel_transport::core::{Frame, Payload};
use parking_lot::Mutex;
use smallvec::SmallVec;

/// A frame as it goes to its stream.
pub(super) type Pieces = SmallVec<[Bytes; 4]>;

/// Memory for pieces, of all links of a transport.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

/// Memory of the pool, some of it in use.
struct Piece {
    bytes: Vec<u8>,
    used: usize,
    pool: Pool,
}

impl Pool {
    /// The pieces of a frame, unless the write that it is of has ended.
    pub(super) fn pieces(&self, frame: Frame) -> Option<Pieces> {
        let _claim = match &frame.source {
            Some(source) => Some(source.claim()?),
            None => None,
        };
        let mut pieces = Pieces::new();
        match frame.payload {
            Payload::None => pieces.push(Bytes::copy_from_slice(&frame.head)),
            Payload::Bytes(bytes) => {
                pieces.push(Bytes::copy_from_slice(&frame.head));
                if !bytes.is_empty() {
                    pieces.push(bytes);
                }
            }
            Payload::Regions(slices) => self.copy(&frame.head, &slices, &mut pieces),
        }
        Some(pieces)
    }

    fn copy(&self, head: &[u8], slices: &[RegionSlice], pieces: &mut Pieces) {
        let mut missing = head.len() + slices.iter().map(RegionSlice::len).sum::<usize>();
        let mut piece = self.take(missing);
        // A head is shorter than any piece that has room for a frame.
        piece.bytes[..head.len()].copy_from_slice(head);
        piece.used = head.len();
        missing -= head.len();
        for slice in slices {
            let mut at = 0;
            while at < slice.len() {
                if piece.used == piece.bytes.len() {
                    pieces.push(Bytes::from_owner(std::mem::replace(&mut piece, self.take(missing))));
                }
                let count = (slice.len() - at).min(piece.bytes.len() - piece.used);
                let place = &mut piece.bytes[piece.used..piece.used + count];
                slice.part(at..at + count).copy_to(place);
                (piece.used, at, missing) = (piece.used + count, at + count, missing - count);
            }
        }
        pieces.push(Bytes::from_owner(piece));
    }

    /// Memory for so many bytes, or for as many of them as a piece has.
    fn take(&self, wanted: usize) -> Piece {
        let pool = self.clone();
        let bytes = if wanted < WORTH_POOLING {
            vec![0; wanted]
        } else {
            self.0.lock().pop().unwrap_or_else(|| vec![0; PIECE])
        };
        Piece { bytes, used: 0, pool }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut pool = self.pool.0.lock();
        if self.bytes.len() == PIECE && pool.len() < KEPT {
            pool.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// As long as any head, at least.
const PIECE: usize = 64 << 10;
/// What is shorter has memory of its own.
const WORTH_POOLING: usize = 4 << 10;
/// Pieces that are kept when nobody uses them: 16 MiB.
const KEPT: usize = 256;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mlxcel_transport::core::{HEADER_BYTES, Link, LinkConfig};
    use mlxcel_transport::{Access, Batch, Domain, Memory, Op, PeerId, Region, Tag};

    use super::*;

    fn region(domain: &Arc<Domain>, len: usize) -> Region {
        let region = domain.register(Memory::zeroed(len).expect("there is memory"), Access::WRITE);
        let bytes: Vec<u8> = (0..len).map(|at| (at >> 7) as u8 ^ at as u8).collect();
        region.write_at(0, &bytes);
        region
    }

    /// The only frame of a write of so many bytes, and the write.
    fn frame_of(len: usize) -> (Frame, Op, Region) {
        let domain = || Domain::with_manual_clock(PeerId::random());
        let (here, there) = (domain(), domain());
        let (source, target) = (region(&here, len), region(&there, len));
        let batch = Batch::single((&source, 0), (&target.key(), 0), len as u64).expect("it fits");
        let mut link = Link::new(here, there.id(), LinkConfig::default(), Instant::now());
        link.rail_up(0, Instant::now());
        let (op, done) = Op::pending();
        link.write(&batch, Tag::new(1), done);
        (link.next_load(0, Instant::now()).expect("a slice"), op, source)
    }

    #[test]
    fn a_frame_is_copied_as_it_is_when_its_turn_comes() {
        let pool = Pool::default();
        for len in [1, WORTH_POOLING, PIECE - HEADER_BYTES, PIECE, 300_001, 5] {
            let (frame, _op, source) = frame_of(len);
            let mut expected = frame.head.to_vec();
            expected.resize(HEADER_BYTES + len, 0);
            source.read_at(0, &mut expected[HEADER_BYTES..]);
            let pieces = pool.pieces(frame).expect("the write has not ended");
            source.write_at(0, &vec![0; len]);
            assert!(pieces.concat() == expected, "{len} bytes");
        }
        assert!(!pool.0.lock().is_empty(), "memory is used again");
    }

    #[test]
    fn nothing_is_sent_of_a_write_that_has_ended() {
        let (frame, op, _source) = frame_of(100);
        op.cancel();
        assert!(Pool::default().pieces(frame).is_none());
    }
}
