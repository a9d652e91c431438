//! What a peer needs to reach a region, as versioned bytes.
//!
//! Offsets cross the wire, never pointers (what a device needs to address the memory is inside a rail's own part).
//! Keys are exchanged by whoever uses the transport, over its messages or the control plane.

use super::{Access, Kind, PeerId};

/// The right to reach a region of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Whose region it is.
    pub owner: PeerId,
    /// Which of the owner's.
    pub region: u32,
    /// What is allowed.
    pub access: Access,
    /// How many bytes the region has.
    pub len: u64,
    /// A random number that only keys of this region carry.
    pub capability: u64,
    /// What the transports need that address memory themselves.
    pub rails: Vec<RailKey>,
}

/// What one transport needs to reach a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RailKey {
    /// Which transport.
    pub kind: Kind,
    /// Its own affair; at most 4 KiB.
    pub bytes: Vec<u8>,
}

/// Why bytes are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A peer of another version made it.
    #[error(
        "keys of version {0} are not understood, only of version {VERSION}; run the same release of mlxcel on both hosts"
    )]
    Version(u8),
    /// It is not the encoding of a key.
    #[error("a key is damaged")]
    Damaged,
}

impl Key {
    /// How the key travels.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, u8::from(self.access.read) | u8::from(self.access.write) << 1];
        bytes.extend(self.owner.to_bytes());
        bytes.extend(self.region.to_be_bytes());
        bytes.extend(self.len.to_be_bytes());
        bytes.extend(self.capability.to_be_bytes());
        bytes.push(u8::try_from(self.rails.len()).expect("a region is attached to a handful of transports"));
        for rail in &self.rails {
            bytes.push(rail.kind as u8);
            let len = u16::try_from(rail.bytes.len()).expect("a rail's key is short");
            bytes.extend(len.to_be_bytes());
            bytes.extend(&rail.bytes);
        }
        bytes
    }

    /// The key that travelled as `bytes`.
    ///
    /// # Errors
    /// When it is of another version, or damaged. Nothing is taken on trust: what it allows is checked by its owner.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut bytes = Reader(bytes);
        let [version, access] = bytes.take()?;
        if version != VERSION {
            return Err(KeyError::Version(version));
        }
        if access > 3 {
            return Err(KeyError::Damaged);
        }
        let key = Self {
            owner: PeerId::from_bytes(bytes.take()?),
            region: u32::from_be_bytes(bytes.take()?),
            access: Access { read: access & 1 != 0, write: access & 2 != 0 },
            len: u64::from_be_bytes(bytes.take()?),
            capability: u64::from_be_bytes(bytes.take()?),
            rails: bytes.rails()?,
        };
        if bytes.0.is_empty() { Ok(key) } else { Err(KeyError::Damaged) }
    }

    /// What the transport of this kind needs, if the owner has attached the region to it.
    #[must_use]
    pub fn rail(&self, kind: Kind) -> Option<&[u8]> {
        self.rails.iter().find(|rail| rail.kind == kind).map(|rail| rail.bytes.as_slice())
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], KeyError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(KeyError::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn slice(&mut self, len: usize) -> Result<&'a [u8], KeyError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(KeyError::Damaged)?;
        self.0 = rest;
        Ok(head)
    }

    fn rails(&mut self) -> Result<Vec<RailKey>, KeyError> {
        let [count] = self.take()?;
        (0..count).map(|_| self.rail()).collect()
    }

    fn rail(&mut self) -> Result<RailKey, KeyError> {
        let [kind] = self.take()?;
        let kind = Kind::from_code(kind).ok_or(KeyError::Damaged)?;
        let len = usize::from(u16::from_be_bytes(self.take()?));
        if len > MAX_RAIL_BYTES {
            return Err(KeyError::Damaged);
        }
        Ok(RailKey { kind, bytes: self.slice(len)?.to_vec() })
    }
}

const VERSION: u8 = 1;
const MAX_RAIL_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Key> {
        let rail = (prop::sample::select(Kind::ALL.to_vec()), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, bytes)| RailKey { kind, bytes });
        let rails = prop::collection::vec(rail, 0..4);
        let numbers = (any::<[u8; 16]>(), any::<u32>(), any::<u64>(), any::<u64>());
        (numbers, any::<(bool, bool)>(), rails).prop_map(
            |((owner, region, len, capability), (read, write), rails)| {
                let owner = PeerId::from_bytes(owner);
                Key { owner, region, access: Access { read, write }, len, capability, rails }
            },
        )
    }

    proptest! {
        #[test]
        fn a_key_arrives_as_it_was_sent(key in key()) {
            prop_assert_eq!(Key::from_bytes(&key.to_bytes()), Ok(key));
        }

        #[test]
        fn no_part_of_a_key_is_a_key(key in key(), cut in 1_usize..39) {
            let bytes = key.to_bytes();
            prop_assert_eq!(Key::from_bytes(&bytes[..bytes.len() - cut.min(bytes.len() - 2)]), Err(KeyError::Damaged));
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(key) = Key::from_bytes(&bytes) {
                prop_assert_eq!(key.to_bytes(), bytes);
            }
        }
    }
}
