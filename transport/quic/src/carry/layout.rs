//! Where in regions the bytes of a stream belong, in whatever order they come.
//!
//! The regions were admitted before; what is checked here is what a peer says of offsets within its own frame.

use mlxcel_transport::RegionSlice;
use mlxcel_transport::core::ProtocolError;

/// A frame: a head, then bytes that go to these places, one after the other.
pub(super) struct Layout<'a> {
    pub(super) places: &'a [RegionSlice],
    pub(super) head_bytes: usize,
    /// As many as the places have together.
    pub(super) payload: usize,
}

impl Layout<'_> {
    /// Copies bytes from this offset in the stream to where they belong; how many.
    pub(super) fn copy(&self, offset: u64, bytes: &[u8]) -> Result<usize, ProtocolError> {
        let at = usize::try_from(offset).ok().and_then(|offset| offset.checked_sub(self.head_bytes));
        let room = at.and_then(|at| self.payload.checked_sub(at)).filter(|room| bytes.len() <= *room);
        let (Some(mut at), Some(_)) = (at, room) else { return Err(TOO_LONG) };
        let mut rest = bytes;
        for place in self.places {
            if at >= place.len() {
                at -= place.len();
                continue;
            }
            let (here, further) = rest.split_at(rest.len().min(place.len() - at));
            place.part(at..at + here.len()).fill_from(here);
            (rest, at) = (further, 0);
            if rest.is_empty() {
                break;
            }
        }
        Ok(bytes.len())
    }
}

pub(super) const TOO_LONG: ProtocolError = ProtocolError("a frame is longer than it says");

#[cfg(test)]
mod tests {
    use mlxcel_transport::{Access, Domain, Memory, PeerId};
    use proptest::prelude::*;

    use super::*;

    const HEAD: usize = 64;

    /// Places of these lengths, each a byte apart from the next in one region.
    fn places(lens: &[usize]) -> (mlxcel_transport::Region, Vec<RegionSlice>) {
        let domain = Domain::with_manual_clock(PeerId::random());
        let whole = lens.iter().map(|len| len + 1).sum();
        let region = domain.register(Memory::zeroed(whole).expect("there is memory"), Access::WRITE);
        let mut start = 0;
        let place = |len: &usize| {
            start += len + 1;
            region.slice(start - len - 1..start - 1)
        };
        let places = lens.iter().map(place).collect();
        (region, places)
    }

    proptest! {
        #[test]
        fn bytes_find_their_places_in_whatever_order_they_come(
            lens in prop::collection::vec(1_usize..60, 1..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            backwards: bool,
        ) {
            let (region, places) = places(&lens);
            let payload = lens.iter().sum::<usize>();
            let layout = Layout { places: &places, head_bytes: HEAD, payload };
            let bytes: Vec<u8> = (0..payload).map(|at| at as u8 | 1).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(payload)).chain([0, payload]).collect();
            cuts.sort_unstable();
            let mut parts: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
            if backwards {
                parts.reverse();
            }
            for part in parts {
                let copied = layout.copy((HEAD + part.start) as u64, &bytes[part.clone()]);
                prop_assert_eq!(copied, Ok(part.len()));
            }
            let placed: Vec<u8> = places.iter().flat_map(|place| {
                let mut here = vec![0; place.len()];
                place.copy_to(&mut here);
                here
            }).collect();
            prop_assert_eq!(placed, bytes);
            let mut all = vec![0; region.len()];
            region.read_at(0, &mut all);
            prop_assert_eq!(all.iter().filter(|byte| **byte == 0).count(), lens.len(), "between them is nothing");
        }

        #[test]
        fn what_a_peer_makes_up_is_refused_or_lies_within(offset: u64, near in 0_u64..300, len in 0_usize..200) {
            let (_region, places) = places(&[50, 50]);
            let layout = Layout { places: &places, head_bytes: HEAD, payload: 100 };
            for offset in [offset, near] {
                let fits = offset >= HEAD as u64 && offset.saturating_add(len as u64) <= HEAD as u64 + 100;
                prop_assert_eq!(layout.copy(offset, &vec![1; len]).is_ok(), fits);
            }
        }
    }
}
