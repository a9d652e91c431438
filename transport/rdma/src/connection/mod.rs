//! One connection: a queue pair, and what is on its way over it.
//!
//! Gives the device what a link has to send (`sending`) and what is to be read (`reads`), and takes what the device has
//! completed. What is said on the link is `mlxcel_transport::core`'s affair; when any of this is called, `books`'.

mod buffers;
mod flow;
mod inbound;
mod packing;
mod reads;
mod sending;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use mlxcel_transport::core::{Link, ProtocolError, RailId};
use mlxcel_transport::domain::Grant;
use mlxcel_transport::{Claim, Domain, RegionSlice};
use smallvec::SmallVec;

use crate::admissions::Admissions;
use crate::credit::Credit;
use crate::leases::Leases;
use crate::posted::Posted;
use crate::reach::Reach;
use crate::verbs::{Channel, Completed, CompletionQueue, Outcome, Port, QueuePair};
use crate::wire::{Note, Packet, QueuePairAddress};

use buffers::{BUFFER_BYTES, Buffers, RECEIVE_BUFFERS};
use flow::Flow;
pub(crate) use inbound::Inbound;
use reads::Reads;
use sending::Load;

/// The only connection of a link.
pub(crate) const RAIL: RailId = 0;

/// What all connections of a transport share.
pub(crate) struct Adapter {
    pub(crate) port: Arc<Port>,
    pub(crate) channel: Arc<Channel>,
    pub(crate) reach: Reach,
    pub(crate) domain: Arc<Domain>,
}

/// A queue pair and its books.
pub(crate) struct Connection {
    // Destroyed first: then the device touches nothing of what follows.
    qp: QueuePair,
    buffers: Buffers,
    posted: Posted<Kept>,
    adapter: Arc<Adapter>,
    address: QueuePairAddress,
    credit: Credit,
    admissions: Admissions,
    leases: Leases,
    notes: VecDeque<Note>,
    /// A frame that is going through packets.
    flow: Option<Flow>,
    /// A frame with payload whose turn it is.
    load: Option<Load>,
    inbound: Inbound,
    reads: Reads,
    /// Frames whose payload was written by the device, here and there.
    written: (u32, u32),
    done: Vec<Completed>,
}

/// What is kept for the device until it has completed what it was given.
enum Kept {
    /// A packet, with the bytes of frames in it.
    Packet { buffer: u32, frames: usize },
    /// Bytes of a write, which must not change; the regions they go to.
    Write { _claim: Claim, _bytes: SmallVec<[RegionSlice; 2]>, grants: SmallVec<[Grant; 2]>, frame: usize },
    /// Bytes that a read is to bring.
    Read {
        read: u64,
        _claim: Claim,
        _bytes: SmallVec<[RegionSlice; 2]>,
        grants: SmallVec<[Grant; 2]>,
        len: u64,
    },
}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The peer sent what no correct peer sends.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The device gave up, such as because the peer does not answer.
    #[error("{0}")]
    Device(String),
    /// The device took no work.
    #[error("the device takes no work: {0}")]
    Refused(#[from] io::Error),
}

impl Connection {
    /// A queue pair with buffers posted, which is not connected yet.
    pub(crate) fn new(adapter: &Arc<Adapter>) -> io::Result<Self> {
        let port = &adapter.port;
        let sends = SENDS.min(port.max_requests);
        let queue =
            CompletionQueue::new(&adapter.channel, (sends + RECEIVE_BUFFERS).min(port.max_completions))?;
        let qp = QueuePair::new(port, queue, sends, RECEIVE_BUFFERS)?;
        let address = QueuePairAddress {
            number: qp.number(),
            packet: rand::random::<u32>() & crate::wire::MAX_NUMBER,
            gid: port.gid.bytes,
            lid: port.lid,
            mtu: port.mtu,
            reads: port.reads,
            buffers: RECEIVE_BUFFERS as u16,
            buffer_bytes: BUFFER_BYTES as u32,
        };
        let buffers = Buffers::new(&port.device)?;
        let made = Self {
            qp,
            buffers,
            posted: Posted::new(sends),
            adapter: Arc::clone(adapter),
            address,
            credit: Credit::new(RECEIVE_BUFFERS, 0),
            admissions: Admissions::default(),
            leases: Leases::default(),
            notes: VecDeque::new(),
            flow: None,
            load: None,
            inbound: Inbound::default(),
            reads: Reads::default(),
            written: (0, 0),
            done: Vec::new(),
        };
        (0..RECEIVE_BUFFERS).try_for_each(|buffer| made.receive_into(buffer))?;
        Ok(made)
    }

    /// How the peer reaches it.
    pub(crate) const fn address(&self) -> &QueuePairAddress {
        &self.address
    }

    /// Connects it to the peer's queue pair.
    pub(crate) fn connect(&mut self, theirs: &QueuePairAddress) -> io::Result<()> {
        self.qp.connect(&self.address, theirs)?;
        self.credit = Credit::new(RECEIVE_BUFFERS, u32::from(theirs.buffers));
        self.reads.at_once = theirs.reads.min(self.address.reads);
        Ok(())
    }

    /// Has the next completion cause an event.
    pub(crate) fn arm(&self) -> Result<(), Trouble> {
        Ok(self.qp.completions().arm()?)
    }

    /// Takes what the device has completed; whether there was anything.
    pub(crate) fn take(&mut self, link: &mut Link, now: Instant) -> Result<bool, Trouble> {
        let mut done = std::mem::take(&mut self.done);
        self.qp.completions().poll(&mut done)?;
        let some = !done.is_empty();
        let taken = done.drain(..).try_for_each(|done| self.completed(done, link, now));
        self.done = done;
        taken.map(|()| some)
    }

    /// Gives the device what there is to do; whether there was anything.
    pub(crate) fn give(&mut self, link: &mut Link, now: Instant) -> Result<bool, Trouble> {
        let mut given = false;
        // Packets last: the others may have something to ask.
        while self.send_write(link, now)? | self.post_read(link)? | self.send_packet(link, now)? {
            given = true;
        }
        Ok(given)
    }

    /// Looks for regions that have been dropped here.
    pub(crate) fn look(&mut self, now: Instant) -> Result<(), Trouble> {
        self.notes.extend(self.leases.look(&self.adapter.domain, now)?);
        Ok(())
    }

    /// The link is no more: only what says good-bye is still sent.
    pub(crate) fn part(&mut self) {
        self.load = None;
        self.reads.lose();
    }

    /// Whether the device has done all it was given.
    pub(crate) fn is_idle(&self) -> bool {
        self.posted.is_empty() && self.flow.is_none()
    }

    fn completed(&mut self, done: Completed, link: &mut Link, now: Instant) -> Result<(), Trouble> {
        match (done.outcome, done.id.checked_sub(RECEIVED)) {
            (Outcome::Failed(status), _) => Err(Trouble::Device(Outcome::describe(status))),
            (Outcome::Done { bytes, immediate }, Some(buffer)) => {
                let buffer = u32::try_from(buffer).unwrap_or_default();
                match immediate {
                    Some(number) => self.hear_written(number, link, now)?,
                    None => self.receive(buffer, bytes as usize, link, now)?,
                }
                self.credit.posted_again();
                Ok(self.receive_into(buffer)?)
            }
            (Outcome::Done { .. }, None) => {
                for kept in self.posted.completed(done.id).collect::<SmallVec<[_; 4]>>() {
                    self.let_go(kept, link, now);
                }
                Ok(())
            }
        }
    }

    /// The device needs something no more.
    fn let_go(&mut self, kept: Kept, link: &mut Link, now: Instant) {
        match kept {
            Kept::Packet { buffer, frames } => {
                self.buffers.give_back(buffer);
                link.sent(RAIL, frames, now);
            }
            Kept::Write { grants, frame, .. } => {
                grants.iter().for_each(|grant| self.admissions.ended(*grant, &mut self.notes));
                link.sent(RAIL, frame, now);
            }
            Kept::Read { read, grants, len, _claim, .. } => {
                grants.iter().for_each(|grant| self.admissions.ended(*grant, &mut self.notes));
                drop(_claim);
                self.reads.brought(read, len);
            }
        }
    }

    fn receive(&mut self, buffer: u32, len: usize, link: &mut Link, now: Instant) -> Result<(), Trouble> {
        link.heard(RAIL, now);
        let bytes = &*self.buffers.bytes(buffer);
        let packet = Packet::parse(bytes.get(..len).unwrap_or(bytes))?;
        self.credit.hear(packet.head.credit)?;
        for note in packet.notes() {
            match note? {
                Note::Ask(grant) => {
                    let reach = &self.adapter.reach;
                    let reach = |memory: &_, access| reach.remote(memory, access);
                    self.notes.push_back(self.leases.answer(&self.adapter.domain, grant, reach)?);
                }
                Note::Withdrawn(grant) => self.admissions.withdrawn(grant, &mut self.notes)?,
                Note::Released(grant) => self.leases.released(grant)?,
                answer => self.admissions.answered(answer)?,
            }
        }
        if self.notes.len() > MAX_NOTES {
            return Err(ProtocolError("it asks more than it takes answers").into());
        }
        Ok(self.inbound.take(link, packet.stream, packet.head.written, now)?)
    }

    fn hear_written(&mut self, number: u32, link: &mut Link, now: Instant) -> Result<(), Trouble> {
        if number != self.written.1 {
            return Err(ProtocolError("bytes came that were not announced").into());
        }
        self.written.1 = self.written.1.wrapping_add(1);
        Ok(self.inbound.written(link, now)?)
    }

    /// Posts a buffer for what the peer sends.
    fn receive_into(&self, buffer: u32) -> io::Result<()> {
        let local = self.buffers.local(buffer, BUFFER_BYTES);
        // SAFETY: the buffer is dropped after the queue pair, and looked at when it is completed only.
        unsafe { self.qp.post_receive(local, RECEIVED + u64::from(buffer)) }
    }
}

/// Requests that a queue pair has room for, where its device has.
const SENDS: u32 = 512;
/// What tells completions of buffers from those of what was sent.
const RECEIVED: u64 = 1 << 63;
/// Answers that wait to be sent.
const MAX_NOTES: usize = 1 << 16;
