//! For the fuzzer: an end that hears the streams of a peer that was let in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlxcel_transport::core::{HEADER_BYTES, Link, LinkConfig, ProtocolError};
use mlxcel_transport::domain::Grant;
use mlxcel_transport::{Access, Batch, Domain, Memory, Op, PeerId, Region, Tag};

use crate::carry::frame::{Control, Incoming, Wanted, opening};
use crate::meet::RAIL;

/// What a link has but for its connection.
struct Victim {
    domain: Arc<Domain>,
    link: Link,
    control: Control,
    /// Streams of which more is to come, and how far they have come.
    open_streams: Vec<(Incoming, u64)>,
    open: Region,
    closed: Region,
    now: Instant,
}

impl Victim {
    fn new() -> Self {
        let (peer, now) = (PeerId::from_bytes([2; 16]), Instant::now());
        let domain = Domain::with_manual_clock(PeerId::from_bytes([1; 16]));
        let region = |access| domain.register(Memory::zeroed(LEN).expect("there is memory"), access);
        let (open, closed) = (region(Access::READ_WRITE), region(Access::LOCAL));
        let mut link = Link::new(Arc::clone(&domain), peer, LinkConfig::default(), now);
        link.rail_up(RAIL, now);
        // Something to be acknowledged, and something to be answered.
        let batch = || Batch::single((&open, 0), (&open.key(), 0), LEN as u64).expect("it fits");
        link.write(&batch(), Tag::new(7), Op::pending().1);
        link.read(&batch(), Op::pending().1);
        Self { domain, link, control: Control::new(), open_streams: Vec::new(), open, closed, now }
    }

    /// Bytes of the stream without payload.
    fn hear(&mut self, mut bytes: &[u8]) -> Result<(), ProtocolError> {
        while !bytes.is_empty() {
            let space = self.control.space();
            let (here, further) = bytes.split_at(bytes.len().min(space.len()));
            space[..here.len()].copy_from_slice(here);
            self.control.hear(here.len(), &mut self.link, self.now)?;
            bytes = further;
        }
        Ok(())
    }

    /// A new stream that begins with `bytes`; with `known`, of a peer that has the key of the open region.
    fn open_stream(&mut self, bytes: &[u8], known: bool) -> Result<(), ProtocolError> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(()) };
        let mut header = opening(head)?;
        if known {
            let key = self.open.key();
            header.grant = Grant { region: key.region, capability: key.capability };
        }
        let Some((further, rest)) = rest.split_at_checked(header.runs_bytes()) else { return Ok(()) };
        let frame = Incoming::begin(header, further, &mut self.link, self.now)?;
        let begun = HEADER_BYTES + further.len();
        match frame.wanted() {
            Wanted::Pieces => {
                self.open_streams.push((frame, begun as u64));
                self.go_on(rest, false)
            }
            Wanted::Whole(len) => {
                let mut whole = rest.to_vec();
                whole.resize(len, 0);
                frame.end(Some(Bytes::from(whole)), &mut self.link, self.now)
            }
            Wanted::Nothing | Wanted::Neither => frame.end(None, &mut self.link, self.now),
        }
    }

    /// More bytes of the stream opened last, in two pieces, perhaps the later one first.
    fn go_on(&mut self, bytes: &[u8], swapped: bool) -> Result<(), ProtocolError> {
        let Some((mut frame, at)) = self.open_streams.pop() else { return Ok(()) };
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let mut pieces = [(at, first), (at + first.len() as u64, second)];
        if swapped {
            pieces.reverse();
        }
        if frame.place(pieces, &mut self.link, self.now)? == Wanted::Pieces {
            self.open_streams.push((frame, at + bytes.len() as u64));
            return Ok(());
        }
        frame.end(None, &mut self.link, self.now)
    }

    fn pass_time(&mut self) {
        self.now += Duration::from_millis(100);
        self.link.handle_timeout(self.now);
    }
}

/// Feeds a link with what `input` describes: bytes of the stream without payload, streams of frames with payload that
/// are open side by side, and time.
///
/// # Panics
/// When bytes are written outside of what the peer was given.
pub fn streams(mut input: &[u8]) {
    let mut victim = Victim::new();
    let _counter = victim.domain.expect(Tag { id: 0, epoch: 0 }, &[victim.link.peer()]).expect("it is free");
    while let [control, len, rest @ ..] = input {
        let (bytes, others) = rest.split_at(usize::from(*len).min(rest.len()));
        input = others;
        let flag = control & 4 != 0;
        let heard = match control & 3 {
            0 => victim.hear(bytes),
            1 => victim.open_stream(bytes, flag),
            2 => {
                // Of which stream.
                let turn = usize::from(control >> 3).checked_rem(victim.open_streams.len());
                victim.open_streams.rotate_left(turn.unwrap_or(0));
                victim.go_on(bytes, flag)
            }
            _ => {
                victim.pass_time();
                Ok(())
            }
        };
        if let Err(error) = heard {
            victim.link.fail(error);
            break;
        }
        while victim.link.next_control(RAIL, victim.now).is_some() {}
        while victim.link.next_load(RAIL, victim.now).is_some() {}
        while victim.link.poll().is_some() {}
    }
    let mut bytes = [0; LEN];
    victim.closed.read_at(0, &mut bytes);
    assert!(bytes.iter().all(|byte| *byte == 0), "what was not granted is untouched");
}

/// Bytes of each region.
const LEN: usize = 4096;
