//! Reads that the device does by itself.
//!
//! A read asks for all its regions before any of it is posted, and is posted a group of pieces at a time. Its bytes are
//! claimed while the device may write to them: that a read has failed is told when they are the caller's again.

use std::collections::BTreeMap;

use mlxcel_transport::core::Link;
use mlxcel_transport::domain::Grant;
use mlxcel_transport::{Batch, Completion, Denial, OpError, RegionSlice};
use smallvec::SmallVec;

use super::{Connection, Kept, Trouble};
use crate::admissions::{Place, Standing};
use crate::verbs::{SendRequest, Work};

/// Reads that have not ended.
#[derive(Default)]
pub(super) struct Reads {
    /// Reads that the devices of both ends may have on their way; 0 where one of them cannot read.
    pub(super) at_once: u8,
    next: u64,
    jobs: BTreeMap<u64, Job>,
    /// Bytes of reads that ended well.
    bytes: u64,
}

struct Job {
    batch: Batch,
    done: Completion,
    /// The first run that has not been posted whole, and how far it has.
    run: usize,
    at: u64,
    on_their_way: u64,
}

/// What is posted at once.
#[derive(Default)]
struct Group {
    requests: Vec<SendRequest>,
    slices: SmallVec<[RegionSlice; 2]>,
    grants: SmallVec<[Grant; 2]>,
    len: u64,
}

impl Job {
    fn is_posted(&self) -> bool {
        self.run == self.batch.runs().len()
    }

    /// The next piece: from where, and to where.
    fn piece(&self) -> Option<(Grant, u64, RegionSlice)> {
        let run = self.batch.runs().get(self.run)?;
        let len = (run.len - self.at).min(MAX_PIECE);
        let key = self.batch.key(run);
        let grant = Grant { region: key.region, capability: key.capability };
        Some((grant, run.remote_offset + self.at, self.batch.local_slice(run, self.at, len)))
    }

    fn pass(&mut self, len: u64) {
        self.at += len;
        self.on_their_way += len;
        if self.at == self.batch.runs()[self.run].len {
            (self.run, self.at) = (self.run + 1, 0);
        }
    }
}

impl Reads {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Bytes that have been read.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Some bytes of a read are there.
    pub(super) fn brought(&mut self, read: u64, len: u64) {
        let Some(job) = self.jobs.get_mut(&read) else { return };
        job.on_their_way -= len;
        if job.is_posted() && job.on_their_way == 0 {
            let job = self.jobs.remove(&read).expect("it was there a moment ago");
            // Counted before it is told.
            self.bytes += if job.done.is_ended() { 0 } else { job.batch.bytes() };
            job.done.end(Ok(()));
        }
    }

    /// The peer is lost.
    pub(super) fn lose(&mut self) {
        for (_, job) in std::mem::take(&mut self.jobs) {
            job.done.end(Err(OpError::PeerLost));
        }
    }

    fn end(&mut self, read: u64, result: Result<(), OpError>) {
        if let Some(job) = self.jobs.remove(&read) {
            job.done.end(result);
        }
    }
}

impl Connection {
    /// Reads a batch; `done` ends when its bytes are there.
    pub(crate) fn read(&mut self, link: &mut Link, batch: &Batch, done: Completion) {
        if self.reads.at_once == 0 || link.lost().is_some() {
            return link.read(batch, done);
        }
        let read = self.reads.next;
        self.reads.next += 1;
        let job = Job { batch: batch.clone(), done, run: 0, at: 0, on_their_way: 0 };
        self.reads.jobs.insert(read, job);
    }

    /// Reads that have not ended, and bytes of those that ended well.
    pub(crate) fn read_totals(&self) -> (usize, u64) {
        (self.reads.len(), self.reads.bytes())
    }

    /// Posts some pieces of the first read that has any; whether it did something.
    pub(super) fn post_read(&mut self, link: &mut Link) -> Result<bool, Trouble> {
        let mut jobs = self.reads.jobs.iter();
        let Some(read) = jobs.find(|(_, job)| !job.is_posted()).map(|(read, _)| *read) else {
            return Ok(false);
        };
        let job = &self.reads.jobs[&read];
        let (fresh, ended) = ((job.run, job.at) == (0, 0), job.done.is_ended());
        if ended {
            self.reads.end(read, Err(OpError::Cancelled));
            return Ok(true);
        }
        match self.regions_of(read, fresh) {
            Standing::Waiting => Ok(false),
            Standing::Refused(denial) => {
                self.reads.end(read, Err(OpError::AccessDenied(denial)));
                Ok(true)
            }
            Standing::Packets => {
                let job = self.reads.jobs.remove(&read).expect("it was there a moment ago");
                link.read(&job.batch, job.done);
                Ok(true)
            }
            Standing::Direct(_) => self.post_group(read),
        }
    }

    /// What may be done with the regions of a read: all of a fresh one, else the next.
    fn regions_of(&mut self, read: u64, fresh: bool) -> Standing {
        let job = &self.reads.jobs[&read];
        let wanted = if fresh { job.batch.runs() } else { &job.batch.runs()[job.run..=job.run] };
        let mut standing = Standing::Packets;
        for run in wanted {
            let key = job.batch.key(run);
            let grant = Grant { region: key.region, capability: key.capability };
            standing = self.admissions.of(grant, &mut self.notes);
            match standing {
                Standing::Direct(place) => {
                    if let Err(denial) = may_read(&place, run.remote_offset, run.len) {
                        return Standing::Refused(denial);
                    }
                    if fresh && !self.adapter.reach.is_local(job.batch.local(run)) {
                        return Standing::Packets;
                    }
                }
                other => return other,
            }
        }
        standing
    }

    fn post_group(&mut self, read: u64) -> Result<bool, Trouble> {
        let job = self.reads.jobs.get_mut(&read).expect("it was there a moment ago");
        let mut group = Group::default();
        let before = (job.run, job.at, job.on_their_way);
        while let Some((grant, offset, slice)) = job.piece() {
            let len = slice.len() as u64;
            let full = group.requests.len() == MAX_GROUP || (group.len > 0 && group.len + len > MAX_PIECE);
            if full {
                break;
            }
            let Standing::Direct(place) = self.admissions.of(grant, &mut self.notes) else { break };
            let (Ok(remote), Ok(local)) = (place.at(offset, len), self.adapter.reach.local(&slice)) else {
                break;
            };
            group.requests.push(SendRequest { work: Work::Read(remote), local, signalled: None });
            group.slices.push(slice);
            group.grants.push(grant);
            group.len += len;
            job.pass(len);
        }
        let claim = job.done.claim();
        let room = self.posted.has_room(group.requests.len() as u32, group.len);
        let (Some(claim), Some(last), true) = (claim, group.requests.last_mut(), room) else {
            (job.run, job.at, job.on_their_way) = before;
            return Ok(false);
        };
        group.grants.dedup();
        group.grants.iter().for_each(|grant| self.admissions.begun(*grant));
        let count = group.slices.len() as u32;
        let (slices, grants, len) = (group.slices, group.grants, group.len);
        let kept = Kept::Read { read, _claim: claim, _bytes: slices, grants, len };
        last.signalled = Some(self.posted.post(count, len, kept));
        // SAFETY: the bytes are kept until the last is completed, and dropped after the queue pair; they are reached
        // through raw pointers only.
        unsafe { self.qp.post(&group.requests) }?;
        Ok(true)
    }
}

fn may_read(place: &Place, offset: u64, len: u64) -> Result<(), Denial> {
    if !place.access.read {
        return Err(Denial::NotAllowed);
    }
    place.at(offset, len).map(drop)
}

/// The most bytes of a work request, and of a group.
const MAX_PIECE: u64 = 1 << 20;
/// The most work requests of a group.
const MAX_GROUP: usize = 64;
