//! Filling a packet.
//!
//! Pure: over the bytes of a buffer.

use crate::wire::{NOTE_BYTES, Note, PACKET_HEAD_BYTES, PacketHead};

/// A packet in the making. Notes come before anything of the stream.
pub(crate) struct Packing<'a> {
    bytes: &'a mut [u8],
    used: usize,
    notes: u8,
    streamed: bool,
}

impl<'a> Packing<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, used: PACKET_HEAD_BYTES, notes: 0, streamed: false }
    }

    /// Adds a note; whether there was room.
    pub(crate) fn note(&mut self, note: Note) -> bool {
        let fits = !self.streamed && self.notes < u8::MAX && self.room().len() >= NOTE_BYTES;
        if fits {
            self.room()[..NOTE_BYTES].copy_from_slice(&note.to_bytes());
            self.used += NOTE_BYTES;
            self.notes += 1;
        }
        fits
    }

    /// Room for more of the stream.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.used..]
    }

    /// So many bytes of the room have been filled with stream.
    pub(crate) fn streamed(&mut self, bytes: usize) {
        self.used += bytes;
        self.streamed |= bytes > 0;
    }

    /// Whether there is nothing in it.
    pub(crate) const fn is_empty(&self) -> bool {
        self.used == PACKET_HEAD_BYTES
    }

    /// Writes the head; how long the packet is.
    pub(crate) fn finish(self, credit: u16, written: bool) -> usize {
        let head = PacketHead { credit, notes: self.notes, written };
        self.bytes[..PACKET_HEAD_BYTES].copy_from_slice(&head.to_bytes());
        self.used
    }
}

#[cfg(test)]
mod tests {
    use mlxcel_transport::domain::Grant;

    use super::*;
    use crate::wire::Packet;

    #[test]
    fn a_packet_is_read_as_it_was_filled() {
        let mut buffer = [0; 200];
        let mut packing = Packing::new(&mut buffer);
        assert!(packing.is_empty());
        let note = Note::Ask(Grant { region: 1, capability: 2 });
        assert!(packing.note(note));
        packing.room()[..5].copy_from_slice(b"hello");
        packing.streamed(5);
        assert!(!packing.note(note), "notes come first");
        let len = packing.finish(7, true);
        let packet = Packet::parse(&buffer[..len]).expect("it is whole");
        assert_eq!((packet.head.credit, packet.head.written, packet.stream), (7, true, &b"hello"[..]));
        assert_eq!(packet.notes().collect::<Vec<_>>(), [Ok(note)]);
    }

    #[test]
    fn notes_that_do_not_fit_wait_for_the_next_packet() {
        let mut buffer = [0; PACKET_HEAD_BYTES + 2 * NOTE_BYTES - 1];
        let mut packing = Packing::new(&mut buffer);
        let note = Note::Released(Grant { region: 1, capability: 2 });
        assert_eq!([packing.note(note), packing.note(note)], [true, false]);
    }
}
