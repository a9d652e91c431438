//! Frames: a header of fixed size with a checksum, further runs, and payload.
//!
//! Little endian. The header holds the first run; a frame of many small pages has a table of further runs behind it.
//! The checksum is of the header; payload is protected by what carries it.

use bytes::Bytes;
use smallvec::SmallVec;

use super::ProtocolError;
use crate::contract::{Completion, RegionSlice, Tag};
use crate::domain::Grant;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a further run.
pub const RUN_BYTES: usize = 24;
/// The most runs that a frame has beside the first.
pub const MAX_FURTHER_RUNS: usize = 63;
/// The most payload of a frame, whatever a peer's slices are.
pub(super) const MAX_PAYLOAD: u32 = 16 << 20;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verb {
    /// A slice of a batch.
    Data = 1,
    /// A slice of a batch that answers a read: `tag.id` is the request.
    Answer = 2,
    /// An item has been dealt with: `slice` says how.
    Ack = 3,
    /// A message: `tag.id` is its channel, `offset` its number there.
    Message = 4,
    /// How much of a channel (`tag.id`) has been read: `offset` bytes in all.
    Credit = 5,
    /// Ranges to be read, as payload.
    Request = 6,
    /// An item is given up, to be acknowledged like any other.
    Cancel = 7,
    /// A rail (`slice`) was lost: the peer closes its end of it now, and says so.
    RailDown = 8,
    /// The peer is there, and has nothing else to say.
    Alive = 9,
    /// The peer leaves.
    Goodbye = 10,
    /// Asks for the acknowledgement of an item again, if it was given: a rail was lost that may have carried it.
    Query = 11,
    /// Nothing of a rail (`slice`) will be placed any more.
    RailClosed = 12,
}

impl Verb {
    const ALL: [Self; 12] = [
        Self::Data,
        Self::Answer,
        Self::Ack,
        Self::Message,
        Self::Credit,
        Self::Request,
        Self::Cancel,
        Self::RailDown,
        Self::Alive,
        Self::Goodbye,
        Self::Query,
        Self::RailClosed,
    ];

    const fn has_runs(self) -> bool {
        matches!(self, Self::Data | Self::Answer)
    }

    /// Whether its frames may carry payload.
    #[must_use]
    pub const fn has_payload(self) -> bool {
        matches!(self, Self::Data | Self::Answer | Self::Message | Self::Request)
    }
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is for.
    pub verb: Verb,
    /// How many runs follow the first.
    pub further_runs: u16,
    /// Bytes of payload, all runs together.
    pub payload: u32,
    /// Which of the sender's items it belongs to: batches, messages and requests are numbered together.
    pub item: u64,
    /// Which slice of the item.
    pub slice: u32,
    /// Of how many.
    pub slices: u32,
    /// What it counts in; other verbs use it for what they say they do.
    pub tag: Tag,
    /// The first run's region.
    pub grant: Grant,
    /// Where the first run begins in it.
    pub offset: u64,
}

impl Header {
    /// A header without runs or payload.
    #[must_use]
    pub const fn new(verb: Verb, item: u64) -> Self {
        let (tag, grant) = (Tag { id: 0, epoch: 0 }, Grant { region: 0, capability: 0 });
        Self { verb, further_runs: 0, payload: 0, item, slice: 0, slices: 1, tag, grant, offset: 0 }
    }

    /// How many bytes of further runs follow.
    #[must_use]
    pub const fn runs_bytes(&self) -> usize {
        self.further_runs as usize * RUN_BYTES
    }

    /// The header that travelled as `bytes`.
    ///
    /// # Errors
    /// When its checksum is wrong, or no correct peer sends it.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, ProtocolError> {
        let sum = crc32fast::hash(&bytes[..CHECKED]);
        // A fuzzer does not find checksums.
        if sum != u32::from_le_bytes(part(bytes, CHECKED)) && !cfg!(fuzzing) {
            return Err(ProtocolError("the checksum of a header is wrong"));
        }
        let verb = Verb::ALL.into_iter().find(|verb| *verb as u8 == bytes[0]);
        let header = Self {
            verb: verb.ok_or(ProtocolError("a frame has an unknown verb"))?,
            further_runs: u16::from_le_bytes(part(bytes, 2)),
            payload: u32::from_le_bytes(part(bytes, 4)),
            item: u64::from_le_bytes(part(bytes, 8)),
            slice: u32::from_le_bytes(part(bytes, 16)),
            slices: u32::from_le_bytes(part(bytes, 20)),
            tag: Tag { id: u64::from_le_bytes(part(bytes, 24)), epoch: u32::from_le_bytes(part(bytes, 32)) },
            grant: Grant {
                region: u32::from_le_bytes(part(bytes, 36)),
                capability: u64::from_le_bytes(part(bytes, 48)),
            },
            offset: u64::from_le_bytes(part(bytes, 40)),
        };
        header.check()
    }

    fn check(self) -> Result<Self, ProtocolError> {
        if self.payload > MAX_PAYLOAD {
            return Err(ProtocolError("a frame is too large"));
        }
        if usize::from(self.further_runs) > MAX_FURTHER_RUNS
            || (self.further_runs > 0 && !self.verb.has_runs())
        {
            return Err(ProtocolError("a frame has too many runs"));
        }
        if self.payload > 0 && !self.verb.has_payload() {
            return Err(ProtocolError("a frame has payload that must not have any"));
        }
        if self.verb.has_runs() && (self.slice >= self.slices || self.payload == 0) {
            return Err(ProtocolError("a slice is not one of its batch"));
        }
        Ok(self)
    }

    /// How it travels.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.verb as u8;
        bytes[2..4].copy_from_slice(&self.further_runs.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.payload.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.item.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.slice.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.slices.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.tag.id.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.tag.epoch.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.grant.region.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.offset.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.grant.capability.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..CHECKED]);
        bytes[CHECKED..CHECKED + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// Where some of a frame's payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireRun {
    /// Which region.
    pub grant: Grant,
    /// Where it begins there.
    pub offset: u64,
    /// How many bytes.
    pub len: u32,
}

/// All of a frame but its payload, as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The fixed part.
    pub header: Header,
    /// All runs, of verbs that have any.
    pub runs: SmallVec<[WireRun; 2]>,
}

impl Head {
    /// A header and the bytes of further runs that followed it: as many as [`Header::runs_bytes`] says.
    ///
    /// # Errors
    /// When the runs are not as long together as the payload.
    pub fn parse(header: Header, further: &[u8]) -> Result<Self, ProtocolError> {
        let mut runs = SmallVec::new();
        if !header.verb.has_runs() {
            return Ok(Self { header, runs });
        }
        let (table, rest) = further.as_chunks::<RUN_BYTES>();
        if table.len() != usize::from(header.further_runs) || !rest.is_empty() {
            return Err(ProtocolError("a frame is cut short"));
        }
        let further = table.iter().map(parse_run);
        let len: u64 = further.clone().map(|run| u64::from(run.len)).sum();
        let first = u64::from(header.payload).checked_sub(len).filter(|first| *first > 0);
        let first = first.ok_or(ProtocolError("a frame's runs are longer than its payload"))?;
        runs.push(WireRun { grant: header.grant, offset: header.offset, len: first as u32 });
        runs.extend(further);
        Ok(Self { header, runs })
    }
}

fn parse_run(bytes: &[u8; RUN_BYTES]) -> WireRun {
    WireRun {
        grant: Grant {
            region: u32::from_le_bytes(part(bytes, 0)),
            capability: u64::from_le_bytes(part(bytes, 16)),
        },
        len: u32::from_le_bytes(part(bytes, 4)),
        offset: u64::from_le_bytes(part(bytes, 8)),
    }
}

/// All of a frame but its payload, as it is sent.
pub type FrameHead = SmallVec<[u8; HEADER_BYTES]>;

/// A frame to be sent: `head`, then the payload.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Header and further runs.
    pub head: FrameHead,
    /// What follows.
    pub payload: Payload,
    /// The write whose bytes it carries: they may be read under a claim, and change when it has ended.
    pub source: Option<Completion>,
}

/// What a frame carries.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Nothing.
    None,
    /// Bytes of regions, one after the other.
    Regions(SmallVec<[RegionSlice; 2]>),
    /// A message.
    Bytes(Bytes),
}

impl Payload {
    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Regions(slices) => slices.iter().map(RegionSlice::len).sum(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Frame {
    /// A frame without runs.
    pub(super) fn plain(mut header: Header, payload: Payload) -> Self {
        header.payload = payload.len() as u32;
        Self { head: FrameHead::from_slice(&header.encode()), payload, source: None }
    }

    /// A slice: its runs, and the bytes of each.
    pub(super) fn slice(mut header: Header, runs: &[WireRun], bytes: SmallVec<[RegionSlice; 2]>) -> Self {
        let (first, further) = runs.split_first().expect("a slice has a run");
        header.payload = runs.iter().map(|run| run.len).sum();
        header.further_runs = further.len() as u16;
        (header.grant, header.offset) = (first.grant, first.offset);
        let mut head = FrameHead::with_capacity(HEADER_BYTES + header.runs_bytes());
        head.extend_from_slice(&header.encode());
        for run in further {
            head.extend_from_slice(&run.grant.region.to_le_bytes());
            head.extend_from_slice(&run.len.to_le_bytes());
            head.extend_from_slice(&run.offset.to_le_bytes());
            head.extend_from_slice(&run.grant.capability.to_le_bytes());
        }
        Self { head, payload: Payload::Regions(bytes), source: None }
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Never: every frame has a header.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let (part, _) = bytes[at..].split_first_chunk().expect("headers and runs are longer than their fields");
    *part
}

const CHECKED: usize = 56;
