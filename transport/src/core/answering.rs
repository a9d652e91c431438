//! Reads: a request that the peer answers with writes.
//!
//! The reader grants the peer its own ranges for as long as the read lasts, and asks for them in requests of bounded
//! size; each is answered by a batch of its own. The peer checks that it may be read from, as it would a write.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::ProtocolError;
use super::frame::Header;
use super::incoming::Status;
use super::link::Link;
use super::outgoing::{AnswerRun, What};
use crate::contract::{Batch, Completion, Denial, Op, OpError};
use crate::domain::{Domain, Grant, Use};

/// Reads of this side that are not done.
#[derive(Debug, Default)]
pub(super) struct Reads {
    reads: HashMap<u64, Read>,
    /// Which read each request is a part of.
    requests: HashMap<u64, u64>,
    next: u64,
}

#[derive(Debug)]
struct Read {
    done: Completion,
    grants: Vec<Grant>,
    requests: Vec<u64>,
    missing: usize,
}

/// A part of a read, as a request's payload.
pub(super) struct Ranges {
    pub(super) read: u64,
    pub(super) bytes: Bytes,
}

impl Reads {
    /// Grants the local ranges of `batch`, and cuts it into requests.
    pub(super) fn begin(&mut self, domain: &Arc<Domain>, batch: &Batch, done: Completion) -> Vec<Ranges> {
        self.next += 1;
        let read = self.next;
        let mut grants: Vec<(*const (), Grant)> = Vec::new();
        let mut bytes = Vec::with_capacity(batch.runs().len() * RANGE_BYTES);
        for run in batch.runs() {
            let (local, key) = (batch.local(run), batch.key(run));
            let name = Arc::as_ptr(local).cast();
            let known = grants.iter().find(|(known, _)| *known == name).map(|(_, grant)| *grant);
            let to = known.unwrap_or_else(|| {
                let grant = domain.grant(local);
                grants.push((name, grant));
                grant
            });
            for value in [key.capability, to.capability, run.remote_offset, run.local_offset, run.len] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            bytes.extend_from_slice(&key.region.to_le_bytes());
            bytes.extend_from_slice(&to.region.to_le_bytes());
        }
        let bytes = Bytes::from(bytes);
        let part = |at: usize| bytes.slice(at..(at + MAX_REQUEST).min(bytes.len()));
        let parts: Vec<_> =
            (0..bytes.len()).step_by(MAX_REQUEST).map(|at| Ranges { read, bytes: part(at) }).collect();
        let grants = grants.into_iter().map(|(_, grant)| grant).collect();
        self.reads.insert(read, Read { done, grants, requests: Vec::new(), missing: parts.len() });
        parts
    }

    /// Notes that request `item` is a part of `read`; what ends the request's own operation, which nobody awaits.
    pub(super) fn part(&mut self, item: u64, read: u64) -> Completion {
        self.requests.insert(item, read);
        if let Some(read) = self.reads.get_mut(&read) {
            read.requests.push(item);
        }
        Op::pending().1
    }

    /// A request was answered in full, or refused.
    pub(super) fn answered(&mut self, domain: &Domain, request: u64, result: Result<(), OpError>) {
        let Some(name) = self.requests.remove(&request) else { return };
        let Some(read) = self.reads.get_mut(&name) else { return };
        read.missing -= 1;
        if result.is_err() || read.missing == 0 {
            self.end(domain, name, result);
        }
    }

    /// Gives up reads that were cancelled or are late.
    pub(super) fn give_up_ended(&mut self, domain: &Domain) {
        let ended = self.reads.iter().filter(|(_, read)| read.done.is_ended()).map(|(name, _)| *name);
        for name in ended.collect::<Vec<_>>() {
            self.end(domain, name, Err(OpError::Cancelled));
        }
    }

    pub(super) fn lose(&mut self, domain: &Domain) {
        for name in self.reads.keys().copied().collect::<Vec<_>>() {
            self.end(domain, name, Err(OpError::PeerLost));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.reads.len()
    }

    /// The grants go first: who is told that a read is over may use its memory.
    fn end(&mut self, domain: &Domain, name: u64, result: Result<(), OpError>) {
        let Some(read) = self.reads.remove(&name) else { return };
        for grant in read.grants {
            domain.withdraw(grant.region);
        }
        for request in read.requests {
            self.requests.remove(&request);
        }
        read.done.end(result);
    }
}

impl Link {
    /// The peer wants to read.
    pub(super) fn requested(&mut self, header: Header, ranges: &Bytes) -> Result<(), ProtocolError> {
        if let Some(status) = self.arrivals.settled(header.item) {
            self.acknowledge(header.item, status);
            return Ok(());
        }
        let runs = match self.ranges(ranges)? {
            Ok(runs) => runs,
            Err(denial) => return self.settle(header.item, Status::Denied(denial)),
        };
        if self.answers >= MAX_ANSWERS {
            return Err(ProtocolError("it reads faster than it takes answers"));
        }
        self.answers += 1;
        self.settle(header.item, Status::Done)?;
        self.post(What::Answer { request: header.item, runs }, Op::pending().1);
        Ok(())
    }

    fn ranges(&self, bytes: &[u8]) -> Result<Result<Vec<AnswerRun>, Denial>, ProtocolError> {
        let (ranges, rest) = bytes.as_chunks::<RANGE_BYTES>();
        if ranges.is_empty() || !rest.is_empty() {
            return Err(ProtocolError("a request is cut short"));
        }
        let mut runs = Vec::with_capacity(ranges.len());
        for range in ranges {
            let number = |at: usize| {
                u64::from_le_bytes(*range[at * 8..].first_chunk().expect("a range has five numbers"))
            };
            let region =
                |at: usize| u32::from_le_bytes(*range[at..].first_chunk().expect("a range has two regions"));
            let from = Grant { region: region(40), capability: number(0) };
            let to = Grant { region: region(44), capability: number(1) };
            if number(4) == 0 {
                return Err(ProtocolError("a request is for nothing"));
            }
            match self.domain.admit(from, number(2), number(4), Use::Read) {
                Ok(from) => runs.push(AnswerRun { from, to, offset: number(3) }),
                Err(denial) => return Ok(Err(denial)),
            }
        }
        Ok(Ok(runs))
    }
}

/// Five numbers of 64 bits (capabilities, offsets of source and destination, length), two regions of 32.
const RANGE_BYTES: usize = 48;
const MAX_REQUEST: usize = RANGE_BYTES * 1024;
/// Answers that wait to be taken.
const MAX_ANSWERS: usize = 1 << 14;
