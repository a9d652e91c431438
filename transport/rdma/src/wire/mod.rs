//! What two ends say to each other beside the frames of `mlxcel_transport::core`, as bytes.
//!
//! Little endian. Everything is from a peer that was let in, and nothing of it is taken on trust.

mod address;
mod note;
mod packet;

pub(crate) use address::MAX_NUMBER;
pub use address::{ADDRESS_BYTES, AddressError, QueuePairAddress};
pub use note::{NOTE_BYTES, Note};
pub use packet::{PACKET_HEAD_BYTES, Packet, PacketHead};

/// A field of so many bytes; the callers' buffers are longer than their fields.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("what is parsed is longer than its fields")
}
