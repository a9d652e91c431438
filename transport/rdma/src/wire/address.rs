//! How a queue pair is reached: exchanged once, over the socket on which two ends meet.

use super::part;

/// What one end must know of the other's queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePairAddress {
    /// The queue pair's number, 24 bits.
    pub number: u32,
    /// The number of the first packet, 24 bits.
    pub packet: u32,
    /// The port's address.
    pub gid: [u8; 16],
    /// The port's address within its InfiniBand subnet; 0 elsewhere.
    pub lid: u16,
    /// The largest packet, as verbs encode it: 1 for 256 bytes, 5 for 4096.
    pub mtu: u8,
    /// Reads that may be on their way at once.
    pub reads: u8,
    /// Buffers that are posted for what the other end sends.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
}

/// Why bytes are no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// They are something else, or were damaged.
    #[error("the address of the peer's queue pair is damaged")]
    Damaged,
    /// A peer of another version made it.
    #[error("the peer describes its queue pair in version {theirs}, we in {VERSION}")]
    Version {
        /// The peer's.
        theirs: u16,
    },
    /// No queue pair is like that.
    #[error("the peer's queue pair cannot be connected to: {0}")]
    Impossible(&'static str),
}

/// How long it is.
pub const ADDRESS_BYTES: usize = 48;

impl QueuePairAddress {
    /// How it travels.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ADDRESS_BYTES] {
        let mut bytes = [0; ADDRESS_BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        (bytes[6], bytes[7]) = (self.mtu, self.reads);
        bytes[8..12].copy_from_slice(&self.number.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.packet.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.gid);
        bytes[32..34].copy_from_slice(&self.lid.to_le_bytes());
        bytes[34..36].copy_from_slice(&self.buffers.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buffer_bytes.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..SUM]);
        bytes[SUM..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The address that travelled as `bytes`.
    ///
    /// # Errors
    /// When it is none, of another version, or of a queue pair that cannot be.
    pub fn parse(bytes: &[u8; ADDRESS_BYTES]) -> Result<Self, AddressError> {
        if !bytes.starts_with(MAGIC) {
            return Err(AddressError::Damaged);
        }
        let theirs = u16::from_le_bytes(part(bytes, 4));
        if theirs != VERSION {
            return Err(AddressError::Version { theirs });
        }
        // A fuzzer does not find checksums.
        if crc32fast::hash(&bytes[..SUM]) != u32::from_le_bytes(part(bytes, SUM)) && !cfg!(fuzzing) {
            return Err(AddressError::Damaged);
        }
        let address = Self {
            number: u32::from_le_bytes(part(bytes, 8)),
            packet: u32::from_le_bytes(part(bytes, 12)),
            gid: part(bytes, 16),
            lid: u16::from_le_bytes(part(bytes, 32)),
            mtu: bytes[6],
            reads: bytes[7],
            buffers: u16::from_le_bytes(part(bytes, 34)),
            buffer_bytes: u32::from_le_bytes(part(bytes, 36)),
        };
        address.check()
    }

    fn check(self) -> Result<Self, AddressError> {
        if self.number > MAX_NUMBER || self.packet > MAX_NUMBER {
            return Err(AddressError::Impossible("its numbers have more than 24 bits"));
        }
        if !(1..=5).contains(&self.mtu) {
            return Err(AddressError::Impossible("there are no packets of its size"));
        }
        if self.gid == [0; 16] && self.lid == 0 {
            return Err(AddressError::Impossible("it has no address"));
        }
        if self.buffers < MIN_BUFFERS || self.buffer_bytes < MIN_BUFFER_BYTES {
            return Err(AddressError::Impossible("it has too little room for what is sent to it"));
        }
        Ok(self)
    }
}

/// The largest number of a queue pair or packet.
pub(crate) const MAX_NUMBER: u32 = 0xFF_FFFF;
/// With fewer, credit could not go around.
const MIN_BUFFERS: u16 = 16;
/// A frame's head fits into a packet, whatever else is in it.
const MIN_BUFFER_BYTES: u32 = 2048;
const MAGIC: &[u8; 4] = b"mlxr";
const VERSION: u16 = 1;
const SUM: usize = ADDRESS_BYTES - 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = QueuePairAddress> {
        let numbers = (0..=MAX_NUMBER, 0..=MAX_NUMBER, any::<[u8; 16]>(), 1..=u16::MAX);
        let limits = (1_u8..=5, any::<u8>(), MIN_BUFFERS.., MIN_BUFFER_BYTES..);
        (numbers, limits).prop_map(|((number, packet, gid, lid), (mtu, reads, buffers, buffer_bytes))| {
            QueuePairAddress { number, packet, gid, lid, mtu, reads, buffers, buffer_bytes }
        })
    }

    proptest! {
        #[test]
        fn an_address_arrives_as_it_was_given(address in address()) {
            prop_assert_eq!(QueuePairAddress::parse(&address.to_bytes()), Ok(address));
        }

        #[test]
        fn a_changed_bit_is_noticed(address in address(), at in 0..ADDRESS_BYTES * 8) {
            let mut bytes = address.to_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(QueuePairAddress::parse(&bytes).is_err());
        }

        #[test]
        fn what_a_peer_makes_up_is_refused_or_possible(
            numbers in any::<(u32, u32, u16)>(),
            limits in any::<(u8, u8, u16, u32)>(),
        ) {
            let ((number, packet, lid), (mtu, reads, buffers, buffer_bytes)) = (numbers, limits);
            let claimed = QueuePairAddress {
                number, packet, gid: [0; 16], lid, mtu, reads, buffers, buffer_bytes,
            };
            let possible = number <= MAX_NUMBER && packet <= MAX_NUMBER && lid > 0 && (1..=5).contains(&mtu)
                && buffers >= MIN_BUFFERS && buffer_bytes >= MIN_BUFFER_BYTES;
            prop_assert_eq!(QueuePairAddress::parse(&claimed.to_bytes()).is_ok(), possible);
        }
    }

    #[test]
    fn another_version_is_named() {
        let address = QueuePairAddress {
            number: 1,
            packet: 2,
            gid: [3; 16],
            lid: 0,
            mtu: 5,
            reads: 1,
            buffers: 64,
            buffer_bytes: 4096,
        };
        let mut bytes = address.to_bytes();
        bytes[4] = 7;
        assert_eq!(QueuePairAddress::parse(&bytes), Err(AddressError::Version { theirs: 7 }));
    }
}
