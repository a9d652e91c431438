//! A frame on its way through packets, a piece at a time.
//!
//! Pure. Bytes of a write are copied under a claim, which is held until the whole frame has been: a frame that was begun
//! must be sent whole, and one whose write has ended must not be begun.

use mlxcel_transport::core::{Frame, Payload};
use mlxcel_transport::{Claim, RegionSlice};

pub(crate) struct Flow {
    frame: Frame,
    _claim: Option<Claim>,
    at: usize,
}

/// Some bytes of a frame.
enum Piece<'a> {
    Bytes(&'a [u8]),
    Region(&'a RegionSlice),
}

impl Flow {
    /// Begins a frame, unless the write that it is of has ended.
    pub(crate) fn new(frame: Frame) -> Option<Self> {
        let claim = match &frame.source {
            Some(source) => Some(source.claim()?),
            None => None,
        };
        Some(Self { frame, _claim: claim, at: 0 })
    }

    /// Copies what fits; how many bytes.
    pub(crate) fn copy(&mut self, into: &mut [u8]) -> usize {
        let (mut skipped, mut copied) = (self.at, 0);
        for piece in self.pieces() {
            if skipped >= piece.len() {
                skipped -= piece.len();
                continue;
            }
            let count = (piece.len() - skipped).min(into.len() - copied);
            piece.copy(skipped, &mut into[copied..copied + count]);
            (skipped, copied) = (0, copied + count);
            if copied == into.len() {
                break;
            }
        }
        self.at += copied;
        copied
    }

    /// Whether all of it has been copied.
    pub(crate) fn is_done(&self) -> bool {
        self.at == self.frame.len()
    }

    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let (bytes, slices): (&[u8], &[RegionSlice]) = match &self.frame.payload {
            Payload::None => (&[], &[]),
            Payload::Bytes(bytes) => (bytes, &[]),
            Payload::Regions(slices) => (&[], slices),
        };
        [Piece::Bytes(&self.frame.head), Piece::Bytes(bytes)]
            .into_iter()
            .chain(slices.iter().map(Piece::Region))
    }
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Region(slice) => slice.len(),
        }
    }

    fn copy(&self, from: usize, into: &mut [u8]) {
        match self {
            Self::Bytes(bytes) => into.copy_from_slice(&bytes[from..from + into.len()]),
            Self::Region(slice) => slice.part(from..from + into.len()).copy_to(into),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mlxcel_transport::core::{Link, LinkConfig};
    use mlxcel_transport::{Access, BatchBuilder, Domain, Memory, Op, PeerId, Region, Tag};
    use proptest::prelude::*;

    use super::*;

    /// The only frame of a write of these lengths, the bytes it should have behind its head, and the write.
    fn frame_of(lens: &[usize]) -> (Frame, Vec<u8>, Op, Region) {
        let domain = || Domain::with_manual_clock(PeerId::random());
        let (here, there) = (domain(), domain());
        let whole = lens.iter().map(|len| len + 1).sum();
        let region = |domain: &std::sync::Arc<Domain>| {
            domain.register(Memory::zeroed(whole).expect("there is memory"), Access::WRITE)
        };
        let (source, target) = (region(&here), region(&there));
        let all: Vec<u8> = (0..whole).map(|at| at as u8).collect();
        source.write_at(0, &all);
        let (mut batch, mut payload, mut at) = (BatchBuilder::default(), Vec::new(), 0);
        let pair = batch.pair(&source, &target.key());
        for len in lens {
            batch.run(pair, at as u64, at as u64, *len as u64);
            payload.extend(&all[at..at + len]);
            at += len + 1;
        }
        let mut link = Link::new(here, there.id(), LinkConfig::default(), Instant::now());
        link.rail_up(0, Instant::now());
        let (op, done) = Op::pending();
        link.write(&batch.build().expect("the runs fit"), Tag::new(1), done);
        (link.next_load(0, Instant::now()).expect("a slice"), payload, op, source)
    }

    proptest! {
        #[test]
        fn a_frame_is_copied_whole_whatever_the_packets_hold(
            lens in prop::collection::vec(1_usize..300, 1..20),
            rooms in prop::collection::vec(1_usize..500, 1..20),
        ) {
            let (frame, payload, _op, _source) = frame_of(&lens);
            let expected = [&frame.head[..], &payload].concat();
            let mut flow = Flow::new(frame).expect("the write has not ended");
            let (mut copied, mut rooms) = (Vec::<u8>::new(), rooms.iter().cycle());
            while !flow.is_done() {
                let mut room = vec![0; *rooms.next().expect("there are some")];
                let count = flow.copy(&mut room);
                copied.extend(&room[..count]);
            }
            prop_assert_eq!(copied, expected);
        }
    }

    #[test]
    fn a_frame_whose_write_has_ended_is_not_begun() {
        let (frame, _, op, _source) = frame_of(&[10]);
        op.cancel();
        assert!(Flow::new(frame).is_none());
    }

    #[test]
    fn a_write_is_told_to_have_failed_when_its_frame_has_been_copied() {
        let (frame, _, op, _source) = frame_of(&[10]);
        let mut flow = Flow::new(frame).expect("the write has not ended");
        op.cancel();
        flow.copy(&mut [0; 70]);
        assert_eq!(op.outcome(), None);
        drop(flow);
        assert!(op.outcome().is_some());
    }
}
