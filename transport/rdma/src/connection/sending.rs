//! What goes out: packets with frames and notes, and frames whose payload the device writes to its place.
//!
//! A short payload, or one of many small pieces, goes through packets: the peer's processor copies it. A longer one is
//! announced by a packet with the frame's head and written by the device behind it; the last piece bears a number, and
//! its arrival is what the peer counts.

use std::time::Instant;

use mlxcel_transport::core::{Frame, HEADER_BYTES, Head, Header, Link, Payload, Verb};
use mlxcel_transport::domain::Grant;
use mlxcel_transport::{Claim, Completion, Denial, OpError};
use smallvec::SmallVec;

use super::packing::Packing;
use super::{Connection, Flow, Kept, RAIL, Trouble};
use crate::admissions::Standing;
use crate::verbs::{Local, Remote, SendRequest, Work};

/// A frame with payload.
pub(super) enum Load {
    /// That goes through packets.
    Packets(Frame),
    /// That the device writes.
    Write(Frame, Head),
}

/// What a frame needs before the device can write it.
enum Ready {
    /// Its owner's answer.
    NotYet,
    /// Nothing: the pieces.
    Now(SmallVec<[(Local, Remote); 2]>),
    /// Another way.
    Packets,
    /// It will not be written.
    Never(Denial),
}

impl Load {
    fn of(frame: Frame) -> Self {
        let runs = match &frame.payload {
            Payload::Regions(slices) if frame.source.is_some() => slices.len(),
            _ => return Self::Packets(frame),
        };
        let head = frame.head.split_first_chunk::<HEADER_BYTES>();
        let head = head.and_then(|(header, further)| Head::parse(Header::parse(header).ok()?, further).ok());
        match head {
            Some(head) if head.header.verb == Verb::Data && frame.payload.len() >= WORTH_WRITING * runs => {
                Self::Write(frame, head)
            }
            _ => Self::Packets(frame),
        }
    }
}

impl Connection {
    /// Sends a packet, if there is anything to put into one.
    pub(super) fn send_packet(&mut self, link: &mut Link, now: Instant) -> Result<bool, Trouble> {
        let (may, must) = (self.credit.allows(1), self.credit.must_be_told());
        if !(may || must) || !self.posted.has_room(1, 0) {
            return Ok(false);
        }
        let Some(buffer) = self.buffers.take() else { return Ok(false) };
        // Notes and frames wait until the peer has room; that it may send again does not.
        let Some((len, frames)) = self.fill(buffer, may.then_some(link), now) else {
            self.buffers.give_back(buffer);
            return Ok(false);
        };
        self.credit.spend(1);
        let number = self.posted.post(1, 0, Kept::Packet { buffer, frames });
        let local = self.buffers.local(buffer, len);
        let request = SendRequest { work: Work::Send, local, signalled: Some(number) };
        // SAFETY: the buffer is given back when this is completed, and dropped after the queue pair.
        unsafe { self.qp.post(&[request]) }?;
        Ok(true)
    }

    /// Fills a packet with what there is: its length, and bytes of frames in it. None where it need not be sent.
    fn fill(&mut self, buffer: u32, link: Option<&mut Link>, now: Instant) -> Option<(usize, usize)> {
        let Self { buffers, notes, flow, load, credit, .. } = self;
        let mut packing = Packing::new(buffers.bytes(buffer));
        let mut frames = 0;
        if let Some(link) = link {
            while notes.front().is_some_and(|note| packing.note(*note)) {
                notes.pop_front();
            }
            while !packing.room().is_empty() {
                if flow.is_none() {
                    *flow = next_flow(load, link, now);
                }
                let Some(going) = flow else { break };
                let copied = going.copy(packing.room());
                packing.streamed(copied);
                frames += copied;
                if going.is_done() {
                    *flow = None;
                }
            }
        }
        let needed = !packing.is_empty() || credit.must_be_told();
        needed.then(|| (packing.finish(credit.tell(), false), frames))
    }

    /// Has the device write a frame's payload, if it is the turn of one.
    pub(super) fn send_write(&mut self, link: &mut Link, now: Instant) -> Result<bool, Trouble> {
        if self.load.is_none() {
            self.load = link.next_load(RAIL, now).map(Load::of);
        }
        let (frame, head) = match self.load.take() {
            Some(Load::Write(frame, head)) => (frame, head),
            other => {
                self.load = other;
                return Ok(false);
            }
        };
        match self.readiness(&frame, &head) {
            Ready::Now(pieces) if self.has_room(&frame, pieces.len() as u32) => {
                match frame.source.as_ref().and_then(Completion::claim) {
                    Some(claim) => self.post_write(frame, &head, &pieces, claim)?,
                    // Its write has ended.
                    None => link.sent(RAIL, frame.len(), now),
                }
                Ok(true)
            }
            Ready::Now(_) | Ready::NotYet => {
                self.load = Some(Load::Write(frame, head));
                Ok(false)
            }
            Ready::Packets => {
                self.load = Some(Load::Packets(frame));
                Ok(true)
            }
            Ready::Never(denial) => {
                if let Some(write) = &frame.source {
                    write.end(Err(OpError::AccessDenied(denial)));
                }
                link.sent(RAIL, frame.len(), now);
                Ok(true)
            }
        }
    }

    fn has_room(&self, frame: &Frame, pieces: u32) -> bool {
        self.flow.is_none()
            && self.buffers.has_free()
            && self.credit.allows(2)
            && self.posted.has_room(pieces + 1, frame.payload.len() as u64)
    }

    /// Where the pieces of a frame go, as far as that is known.
    fn readiness(&mut self, frame: &Frame, head: &Head) -> Ready {
        let Payload::Regions(slices) = &frame.payload else { return Ready::Packets };
        let mut pieces = SmallVec::new();
        for (slice, run) in slices.iter().zip(&head.runs) {
            let place = match self.admissions.of(run.grant, &mut self.notes) {
                Standing::Direct(place) if place.access.write => place,
                Standing::Direct(_) => return Ready::Never(Denial::NotAllowed),
                Standing::Waiting => return Ready::NotYet,
                Standing::Packets => return Ready::Packets,
                Standing::Refused(denial) => return Ready::Never(denial),
            };
            let Ok(local) = self.adapter.reach.local(slice) else { return Ready::Packets };
            match place.at(run.offset, u64::from(run.len)) {
                Ok(remote) => pieces.push((local, remote)),
                Err(denial) => return Ready::Never(denial),
            }
        }
        Ready::Now(pieces)
    }

    /// Announces a frame and has its payload written; there is room for it.
    fn post_write(
        &mut self,
        frame: Frame,
        head: &Head,
        pieces: &[(Local, Remote)],
        claim: Claim,
    ) -> Result<(), Trouble> {
        let mut requests = vec![self.announcement(&frame)];
        let mut grants: SmallVec<[Grant; 2]> = head.runs.iter().map(|run| run.grant).collect();
        grants.dedup();
        grants.iter().for_each(|grant| self.admissions.begun(*grant));
        let (bytes, whole) = (frame.payload.len() as u64, frame.len());
        let Payload::Regions(slices) = frame.payload else { unreachable!("only regions are written") };
        let kept = Kept::Write { _claim: claim, _bytes: slices, grants, frame: whole };
        let number = self.posted.post(pieces.len() as u32, bytes, kept);
        let last = pieces.len() - 1;
        requests.extend(pieces.iter().enumerate().map(|(at, (local, remote))| SendRequest {
            work: Work::Write(*remote, (at == last).then_some(self.written.0)),
            local: *local,
            signalled: (at == last).then_some(number),
        }));
        self.written.0 = self.written.0.wrapping_add(1);
        // SAFETY: buffer and bytes are kept until the last is completed, and dropped after the queue pair.
        Ok(unsafe { self.qp.post(&requests) }?)
    }

    /// A packet with the head of a frame that is written behind it.
    fn announcement(&mut self, frame: &Frame) -> SendRequest {
        let buffer = self.buffers.take().expect("there is room for a packet");
        let mut packing = Packing::new(self.buffers.bytes(buffer));
        packing.room()[..frame.head.len()].copy_from_slice(&frame.head);
        packing.streamed(frame.head.len());
        let len = packing.finish(self.credit.tell(), true);
        self.credit.spend(2);
        self.posted.post(1, 0, Kept::Packet { buffer, frames: 0 });
        SendRequest { work: Work::Send, local: self.buffers.local(buffer, len), signalled: None }
    }
}

/// The next frame that goes through packets, if it is the turn of one.
fn next_flow(load: &mut Option<Load>, link: &mut Link, now: Instant) -> Option<Flow> {
    if let Some(frame) = link.next_control(RAIL, now) {
        return Flow::new(frame);
    }
    loop {
        if load.is_none() {
            *load = link.next_load(RAIL, now).map(Load::of);
        }
        let frame = match load.take()? {
            Load::Packets(frame) => frame,
            write @ Load::Write(..) => {
                *load = Some(write);
                return None;
            }
        };
        let len = frame.len();
        if let Some(flow) = Flow::new(frame) {
            return Some(flow);
        }
        link.sent(RAIL, len, now);
    }
}

/// Bytes of a piece, on average, from which on it is worth a work request of its own.
const WORTH_WRITING: usize = 1024;
