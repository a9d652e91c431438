//! What is to be sent: batches, answers, messages and requests, and where each is cut into slices.
//!
//! Pure: cutting depends on the item and the slice size alone, so that a slice that is sent again is the same slice.

use bytes::Bytes;
use smallvec::SmallVec;

use super::frame::{Frame, Header, MAX_FURTHER_RUNS, Payload, Verb, WireRun};
use super::rails::RailId;
use crate::contract::{Batch, Channel, Completion, RegionSlice, Tag};
use crate::domain::Grant;

/// Something to be sent and acknowledged.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) what: What,
    pub(super) done: Completion,
    /// Where each slice begins.
    cuts: SmallVec<[Cut; 2]>,
    /// The next slice that has never been sent.
    next: u32,
    /// Over which rail each slice went last.
    went: SmallVec<[RailId; 4]>,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) enum What {
    Write { batch: Batch, tag: Tag },
    Answer { request: u64, runs: Vec<AnswerRun> },
    Message { channel: Channel, number: u64, message: Bytes },
    Request { ranges: Bytes },
}

/// Bytes that a peer reads, and where it wants them.
#[derive(Clone, Debug)]
pub(super) struct AnswerRun {
    pub(super) from: RegionSlice,
    pub(super) to: Grant,
    pub(super) offset: u64,
}

/// A place in an item: which run, and how far into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    run: u32,
    at: u64,
}

impl Outgoing {
    pub(super) fn new(what: What, done: Completion, slice_bytes: usize) -> Self {
        let cuts = what.cuts(slice_bytes as u64);
        let bytes = what.bytes();
        Self { what, done, cuts, next: 0, went: SmallVec::new(), bytes }
    }

    pub(super) fn slices(&self) -> u32 {
        self.cuts.len() as u32
    }

    /// Whether there are slices that have never been sent.
    pub(super) fn has_more(&self) -> bool {
        self.next < self.slices()
    }

    pub(super) const fn was_sent(&self) -> bool {
        self.next > 0
    }

    /// The next slice, to go over `rail`.
    pub(super) fn next_frame(&mut self, item: u64, rail: RailId) -> Frame {
        let slice = self.next;
        self.next += 1;
        self.went.push(rail);
        self.frame(item, slice)
    }

    /// A slice that was lost, to go over `rail`.
    pub(super) fn again(&mut self, item: u64, slice: u32, rail: RailId) -> Frame {
        self.went[slice as usize] = rail;
        self.frame(item, slice)
    }

    /// The slices that went over `rail` last.
    pub(super) fn lost_with(&self, rail: RailId) -> impl Iterator<Item = u32> + '_ {
        let slices = self.went.iter().enumerate();
        slices.filter(move |(_, went)| **went == rail).map(|(slice, _)| slice as u32)
    }

    fn frame(&self, item: u64, slice: u32) -> Frame {
        let mut header = Header { slice, slices: self.slices(), ..Header::new(self.what.verb(), item) };
        match &self.what {
            What::Write { tag, .. } => header.tag = *tag,
            What::Answer { request, .. } => header.tag.id = *request,
            What::Message { channel, number, message } => {
                (header.tag.id, header.offset) = (u64::from(channel.0), *number);
                return Frame::plain(header, Payload::Bytes(message.clone()));
            }
            What::Request { ranges } => return Frame::plain(header, Payload::Bytes(ranges.clone())),
        }
        let (runs, bytes) = self.runs_of(slice);
        let source = matches!(self.what, What::Write { .. }).then(|| self.done.clone());
        Frame { source, ..Frame::slice(header, &runs, bytes) }
    }

    /// The runs of a slice, and the bytes of each.
    fn runs_of(&self, slice: u32) -> (SmallVec<[WireRun; 2]>, SmallVec<[RegionSlice; 2]>) {
        let mut cut = self.cuts[slice as usize];
        let end = self.cuts.get(slice as usize + 1).copied();
        let end = end.unwrap_or(Cut { run: self.what.runs() as u32, at: 0 });
        let (mut runs, mut bytes) = (SmallVec::new(), SmallVec::new());
        while cut != end {
            let whole = self.what.run_len(cut.run as usize);
            let until = if cut.run == end.run { end.at } else { whole };
            let (run, slice) = self.what.part(cut.run as usize, cut.at, until - cut.at);
            runs.push(run);
            bytes.push(slice);
            cut = if until == whole { Cut { run: cut.run + 1, at: 0 } } else { Cut { at: until, ..cut } };
        }
        (runs, bytes)
    }
}

impl What {
    const fn verb(&self) -> Verb {
        match self {
            Self::Write { .. } => Verb::Data,
            Self::Answer { .. } => Verb::Answer,
            Self::Message { .. } => Verb::Message,
            Self::Request { .. } => Verb::Request,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Write { batch, .. } => batch.bytes(),
            Self::Answer { runs, .. } => runs.iter().map(|run| run.from.len() as u64).sum(),
            Self::Message { message, .. } => message.len() as u64,
            Self::Request { .. } => 0,
        }
    }

    fn runs(&self) -> usize {
        match self {
            Self::Write { batch, .. } => batch.runs().len(),
            Self::Answer { runs, .. } => runs.len(),
            Self::Message { .. } | Self::Request { .. } => 0,
        }
    }

    fn run_len(&self, run: usize) -> u64 {
        match self {
            Self::Write { batch, .. } => batch.runs()[run].len,
            Self::Answer { runs, .. } => runs[run].from.len() as u64,
            Self::Message { .. } | Self::Request { .. } => 0,
        }
    }

    /// `len` bytes of a run from `at` on: where they go, and they themselves.
    fn part(&self, run: usize, at: u64, len: u64) -> (WireRun, RegionSlice) {
        match self {
            Self::Write { batch, .. } => {
                let run = &batch.runs()[run];
                let key = batch.key(run);
                let grant = Grant { region: key.region, capability: key.capability };
                let wire = WireRun { grant, offset: run.remote_offset + at, len: len as u32 };
                (wire, batch.local_slice(run, at, len))
            }
            Self::Answer { runs, .. } => {
                let run = &runs[run];
                let wire = WireRun { grant: run.to, offset: run.offset + at, len: len as u32 };
                (wire, run.from.part(at as usize..(at + len) as usize))
            }
            Self::Message { .. } | Self::Request { .. } => unreachable!("only batches have runs"),
        }
    }

    /// Where slices begin: each takes whole runs as long as they fit, and long runs are cut.
    fn cuts(&self, slice_bytes: u64) -> SmallVec<[Cut; 2]> {
        let mut cuts = SmallVec::from_slice(&[Cut { run: 0, at: 0 }]);
        let (mut bytes, mut runs) = (0, 0);
        for run in 0..self.runs() {
            let len = self.run_len(run);
            // A run that would be cut though it fits into a slice of its own begins one.
            if runs > MAX_FURTHER_RUNS || (bytes > 0 && bytes + len > slice_bytes) {
                cuts.push(Cut { run: run as u32, at: 0 });
                (bytes, runs) = (0, 0);
            }
            let mut at = slice_bytes;
            while at < len {
                cuts.push(Cut { run: run as u32, at });
                at += slice_bytes;
            }
            bytes = if len > slice_bytes { len + slice_bytes - at } else { bytes + len };
            runs = if len > slice_bytes { 1 } else { runs + 1 };
        }
        cuts
    }
}
