//! The first words on a connection: who calls whom, and what the called one says to that.
//!
//! Fixed sizes, so that nothing is read that belongs to what follows. Little endian, with a checksum. Both ends name
//! their end of the link: an end that lost the link and begins anew has a larger name, so that what was said on one link
//! is never taken for something said on the next. Whom to welcome is the driver's affair.

use super::RailId;
use crate::PeerId;

/// What a caller says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who calls.
    pub from: PeerId,
    /// Who is meant.
    pub to: PeerId,
    /// The name of the caller's end of the link.
    pub incarnation: u64,
    /// The name of the called one's end, if the caller knows it: for one more connection of a link that exists.
    pub known: Option<u64>,
    /// The connection's name; no other of the link ever has it.
    pub rail: RailId,
    /// How many connections the caller wants.
    pub rails: u16,
}

/// What the called one says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection is welcome.
    Accepted {
        /// The name of the called one's end of the link.
        incarnation: u64,
        /// How many connections there should be: what the end says that wants more.
        rails: u16,
    },
    /// It is not.
    Refused(Refusal),
}

/// Why a connection is not welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The called one is not who was meant.
    AnotherPeer = 1,
    /// There are too many connections, or another host opened the link.
    Unwelcome = 2,
    /// The link that the connection is for is no more.
    Forgotten = 3,
}

/// Why first words are not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Another protocol is spoken there.
    #[error("the other end does not speak mlxcel's transport protocol")]
    Foreign,
    /// Another version of it.
    #[error("the other end speaks version {theirs} of the transport's protocol, we speak {ours}")]
    Version {
        /// What is spoken there.
        theirs: u16,
        /// What is spoken here.
        ours: u16,
    },
    /// They are damaged.
    #[error("the first words on the connection are damaged")]
    Damaged,
}

/// How long a hello is.
pub const HELLO_BYTES: usize = 72;
/// How long an answer is.
pub const ANSWER_BYTES: usize = 32;

impl Hello {
    /// How it travels.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[8..24].copy_from_slice(&self.from.to_bytes());
        bytes[24..40].copy_from_slice(&self.to.to_bytes());
        bytes[40..48].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.known.unwrap_or_default().to_le_bytes());
        bytes[56..58].copy_from_slice(&self.rail.to_le_bytes());
        bytes[58..60].copy_from_slice(&self.rails.to_le_bytes());
        bytes[60] = u8::from(self.known.is_some());
        sign(&mut bytes);
        bytes
    }

    /// The hello that travelled as `bytes`.
    ///
    /// # Errors
    /// When it is none, or of another version.
    pub fn parse(bytes: &[u8; HELLO_BYTES]) -> Result<Self, HelloError> {
        check(bytes)?;
        let known = u64::from_le_bytes(part(bytes, 48));
        Ok(Self {
            from: PeerId::from_bytes(part(bytes, 8)),
            to: PeerId::from_bytes(part(bytes, 24)),
            incarnation: u64::from_le_bytes(part(bytes, 40)),
            known: (bytes[60] != 0).then_some(known),
            rail: u16::from_le_bytes(part(bytes, 56)),
            rails: u16::from_le_bytes(part(bytes, 58)),
        })
    }
}

impl Answer {
    /// How it travels.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        match self {
            Self::Accepted { incarnation, rails } => {
                bytes[8..16].copy_from_slice(&incarnation.to_le_bytes());
                bytes[16..18].copy_from_slice(&rails.to_le_bytes());
            }
            Self::Refused(refusal) => bytes[18] = *refusal as u8,
        }
        sign(&mut bytes);
        bytes
    }

    /// The answer that travelled as `bytes`.
    ///
    /// # Errors
    /// When it is none, or of another version.
    pub fn parse(bytes: &[u8; ANSWER_BYTES]) -> Result<Self, HelloError> {
        check(bytes)?;
        let refusals = [Refusal::AnotherPeer, Refusal::Unwelcome, Refusal::Forgotten];
        match bytes[18] {
            0 => Ok(Self::Accepted {
                incarnation: u64::from_le_bytes(part(bytes, 8)),
                rails: u16::from_le_bytes(part(bytes, 16)),
            }),
            code => {
                let refusal = refusals.into_iter().find(|refusal| *refusal as u8 == code);
                refusal.map(Self::Refused).ok_or(HelloError::Damaged)
            }
        }
    }
}

/// Adds magic, version and checksum.
fn sign(bytes: &mut [u8]) {
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    let (body, sum) = bytes.split_at_mut(bytes.len() - SUM);
    sum.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
}

fn check(bytes: &[u8]) -> Result<(), HelloError> {
    if !bytes.starts_with(MAGIC) {
        return Err(HelloError::Foreign);
    }
    // Before the checksum: another version may be of another length, or sum otherwise.
    let theirs = u16::from_le_bytes(part(bytes, 4));
    if theirs != VERSION {
        return Err(HelloError::Version { theirs, ours: VERSION });
    }
    let (body, sum) = bytes.split_at(bytes.len() - SUM);
    // A fuzzer does not find checksums.
    let intact = cfg!(fuzzing) || sum == crc32fast::hash(body).to_le_bytes();
    if intact { Ok(()) } else { Err(HelloError::Damaged) }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("first words are longer than their fields")
}

const MAGIC: &[u8; 4] = b"mlxt";
const VERSION: u16 = 1;
const SUM: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn first_words_arrive_as_they_were_said(
            (from, to) in any::<([u8; 16], [u8; 16])>(),
            (incarnation, known) in any::<(u64, Option<u64>)>(),
            (rail, rails) in any::<(u16, u16)>(),
            code in 0_usize..4,
        ) {
            let (from, to) = (PeerId::from_bytes(from), PeerId::from_bytes(to));
            let hello = Hello { from, to, incarnation, known, rail, rails };
            prop_assert_eq!(Hello::parse(&hello.to_bytes()), Ok(hello));
            let refusals = [Refusal::AnotherPeer, Refusal::Unwelcome, Refusal::Forgotten];
            let accepted = Answer::Accepted { incarnation, rails };
            let answer = refusals.get(code).map_or(accepted, |refusal| Answer::Refused(*refusal));
            prop_assert_eq!(Answer::parse(&answer.to_bytes()), Ok(answer));
        }

        #[test]
        fn a_changed_bit_is_noticed(at in 0..HELLO_BYTES * 8) {
            let (from, to) = (PeerId::random(), PeerId::random());
            let hello = Hello { from, to, incarnation: 7, known: None, rail: 1, rails: 2 };
            let mut bytes = hello.to_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(Hello::parse(&bytes).is_err());
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = Answer::Accepted { incarnation: 1, rails: 1 }.to_bytes();
        bytes[4] = 9;
        assert_eq!(Answer::parse(&bytes), Err(HelloError::Version { theirs: 9, ours: 1 }));
    }
}
