//! What is said about memory that is reached directly.
//!
//! A device takes bytes for whoever names its key to them; who may is for the owner to say, before anything is posted.
//! An end asks for a region once, and is told where it is; when the region is dropped, the owner says so, keeps the
//! memory registered until the other end has nothing on its way there any more, and is told that.

use mlxcel_transport::core::ProtocolError;
use mlxcel_transport::domain::Grant;
use mlxcel_transport::{Access, Denial};

use super::part;

/// Something said about a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// May the peer use this region, and where is it?
    Ask(Grant),
    /// It may, and it is there.
    Admitted {
        /// Which region.
        grant: Grant,
        /// What it may do.
        access: Access,
        /// The address of its first byte, as its owner's device knows it.
        start: u64,
        /// How many bytes.
        len: u64,
        /// What the owner's device names it by.
        key: u32,
    },
    /// It may, but no device reaches it: bytes go through packets.
    Unreachable(Grant),
    /// It may not.
    Refused(Grant, Denial),
    /// The region has been dropped by its owner: nothing more may be posted for it.
    Withdrawn(Grant),
    /// Nothing is on its way there any more.
    Released(Grant),
}

/// How long one is.
pub const NOTE_BYTES: usize = 40;

impl Note {
    /// How it travels.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; NOTE_BYTES] {
        let mut bytes = [0; NOTE_BYTES];
        let (code, grant) = match *self {
            Self::Ask(grant) => (1, grant),
            Self::Admitted { grant, access, start, len, key } => {
                bytes[1] = u8::from(access.read) | u8::from(access.write) << 1;
                bytes[16..24].copy_from_slice(&start.to_le_bytes());
                bytes[24..32].copy_from_slice(&len.to_le_bytes());
                bytes[32..36].copy_from_slice(&key.to_le_bytes());
                (2, grant)
            }
            Self::Unreachable(grant) => (3, grant),
            Self::Refused(grant, denial) => {
                bytes[1] = denial as u8;
                (4, grant)
            }
            Self::Withdrawn(grant) => (5, grant),
            Self::Released(grant) => (6, grant),
        };
        bytes[0] = code;
        bytes[4..8].copy_from_slice(&grant.region.to_le_bytes());
        bytes[8..16].copy_from_slice(&grant.capability.to_le_bytes());
        bytes
    }

    /// The note that travelled as `bytes`.
    ///
    /// # Errors
    /// When no correct peer says this.
    pub fn parse(bytes: &[u8; NOTE_BYTES]) -> Result<Self, ProtocolError> {
        let grant = Grant {
            region: u32::from_le_bytes(part(bytes, 4)),
            capability: u64::from_le_bytes(part(bytes, 8)),
        };
        match bytes[0] {
            1 => Ok(Self::Ask(grant)),
            2 if bytes[1] <= 3 => Ok(Self::Admitted {
                grant,
                access: Access { read: bytes[1] & 1 != 0, write: bytes[1] & 2 != 0 },
                start: u64::from_le_bytes(part(bytes, 16)),
                len: u64::from_le_bytes(part(bytes, 24)),
                key: u32::from_le_bytes(part(bytes, 32)),
            }),
            3 => Ok(Self::Unreachable(grant)),
            4 => Denial::from_code(bytes[1]).map(|denial| Self::Refused(grant, denial)).ok_or(UNKNOWN),
            5 => Ok(Self::Withdrawn(grant)),
            6 => Ok(Self::Released(grant)),
            _ => Err(UNKNOWN),
        }
    }
}

const UNKNOWN: ProtocolError = ProtocolError("it says what is not understood of a region");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn note() -> impl Strategy<Value = Note> {
        let grant = any::<(u32, u64)>().prop_map(|(region, capability)| Grant { region, capability });
        let denials = [Denial::UnknownKey, Denial::OutOfRange, Denial::NotAllowed];
        (grant, 0..6, any::<(bool, bool, u64, u64, u32)>(), prop::sample::select(denials.to_vec())).prop_map(
            |(grant, which, (read, write, start, len, key), denial)| match which {
                0 => Note::Ask(grant),
                1 => Note::Admitted { grant, access: Access { read, write }, start, len, key },
                2 => Note::Unreachable(grant),
                3 => Note::Refused(grant, denial),
                4 => Note::Withdrawn(grant),
                _ => Note::Released(grant),
            },
        )
    }

    proptest! {
        #[test]
        fn a_note_arrives_as_it_was_said(note in note()) {
            prop_assert_eq!(Note::parse(&note.to_bytes()), Ok(note));
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_understood(bytes in prop::collection::vec(any::<u8>(), NOTE_BYTES)) {
            let bytes: [u8; NOTE_BYTES] = bytes.try_into().expect("as many");
            if let Ok(note) = Note::parse(&bytes) {
                prop_assert_eq!(Note::parse(&note.to_bytes()), Ok(note));
            }
        }
    }
}
