//! A packet: what goes into one of the buffers that the peer has posted.
//!
//! A head, notes about memory, and a piece of the stream of frames. Frames are cut wherever a packet ends. The payload
//! of the last frame may be left out: then the peer's device writes it to its place, and says when it is there.

use mlxcel_transport::core::ProtocolError;

use super::note::{NOTE_BYTES, Note};
use super::part;

/// The fixed part of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketHead {
    /// Buffers that have been posted again since the last packet.
    pub credit: u16,
    /// How many notes follow.
    pub notes: u8,
    /// Whether the payload of the last frame is written by the device.
    pub written: bool,
}

/// A packet that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The fixed part.
    pub head: PacketHead,
    notes: &'a [[u8; NOTE_BYTES]],
    /// A piece of the stream of frames.
    pub stream: &'a [u8],
}

/// How long the fixed part is.
pub const PACKET_HEAD_BYTES: usize = 8;

impl PacketHead {
    /// How it travels.
    #[must_use]
    pub fn to_bytes(self) -> [u8; PACKET_HEAD_BYTES] {
        let [low, high] = self.credit.to_le_bytes();
        [low, high, self.notes, u8::from(self.written), 0, 0, 0, 0]
    }
}

impl<'a> Packet<'a> {
    /// The packet that travelled as `bytes`.
    ///
    /// # Errors
    /// When no correct peer sends this.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ProtocolError> {
        let (fixed, rest) = bytes.split_first_chunk::<PACKET_HEAD_BYTES>().ok_or(CUT_SHORT)?;
        if fixed[3] > 1 {
            return Err(ProtocolError("a packet has an unknown flag"));
        }
        let head = PacketHead {
            credit: u16::from_le_bytes(part(fixed, 0)),
            notes: fixed[2],
            written: fixed[3] == 1,
        };
        let (notes, stream) = rest.split_at_checked(usize::from(head.notes) * NOTE_BYTES).ok_or(CUT_SHORT)?;
        let (notes, _) = notes.as_chunks();
        if head.written && stream.is_empty() {
            return Err(ProtocolError("a packet announces bytes of no frame"));
        }
        Ok(Self { head, notes, stream })
    }

    /// What it says about memory.
    ///
    /// # Errors
    /// Those of which no correct peer says this.
    pub fn notes(&self) -> impl Iterator<Item = Result<Note, ProtocolError>> + 'a {
        self.notes.iter().map(Note::parse)
    }
}

const CUT_SHORT: ProtocolError = ProtocolError("a packet is cut short");

#[cfg(test)]
mod tests {
    use mlxcel_transport::domain::Grant;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_packet_arrives_as_it_was_sent(
            credit: u16,
            regions in prop::collection::vec(any::<u32>(), 0..5),
            written: bool,
            stream in prop::collection::vec(any::<u8>(), 1..50),
        ) {
            let notes: Vec<_> =
                regions.iter().map(|region| Note::Ask(Grant { region: *region, capability: 7 })).collect();
            let head = PacketHead { credit, notes: notes.len() as u8, written };
            let mut bytes = head.to_bytes().to_vec();
            notes.iter().for_each(|note| bytes.extend(note.to_bytes()));
            bytes.extend(&stream);
            let packet = Packet::parse(&bytes).expect("it is whole");
            prop_assert_eq!(packet.head, head);
            prop_assert_eq!(packet.stream, stream);
            prop_assert_eq!(packet.notes().collect::<Result<Vec<_>, _>>(), Ok(notes));
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(packet) = Packet::parse(&bytes) {
                let notes = packet.notes().count();
                prop_assert_eq!(PACKET_HEAD_BYTES + notes * NOTE_BYTES + packet.stream.len(), bytes.len());
            }
        }
    }

    #[test]
    fn a_packet_that_has_fewer_notes_than_it_says_is_refused() {
        let bytes = PacketHead { credit: 0, notes: 2, written: false }.to_bytes();
        assert_eq!(Packet::parse(&[&bytes[..], &[0; NOTE_BYTES]].concat()).map(|_| ()), Err(CUT_SHORT));
    }
}
