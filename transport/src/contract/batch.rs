//! What one write or read moves: pairs of ranges, prepared once and posted as often as wanted.
//!
//! A write copies the local range of each run to the remote one, a read the remote one to the local one. Local ranges
//! are checked here; remote ones as far as the key tells, and again by their owner.

use std::sync::Arc;

use super::region::RegionMemory;
use super::{Key, PeerId, Region, RegionSlice};

/// Why a batch cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A batch moves at least a byte.
    #[error("a batch must have a run that is not empty")]
    Empty,
    /// A run leaves its local region.
    #[error(
        "run {run} names {len} bytes at {offset}, which do not lie within the local region of {region} bytes"
    )]
    LocalRange {
        /// Which run, as added.
        run: usize,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        len: u64,
        /// How many bytes the region has.
        region: u64,
    },
    /// A run leaves its remote region.
    #[error(
        "run {run} names {len} bytes at {offset}, which do not lie within the remote region of {region} bytes"
    )]
    RemoteRange {
        /// Which run, as added.
        run: usize,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        len: u64,
        /// How many bytes the region has.
        region: u64,
    },
    /// A batch is an affair of two peers.
    #[error("the keys of a batch must have one owner, got {0} and {1}")]
    SeveralOwners(PeerId, PeerId),
}

/// Pairs of ranges between this process and one peer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Batch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    peer: PeerId,
    bytes: u64,
    locals: Vec<Arc<RegionMemory>>,
    keys: Vec<Key>,
    runs: Vec<Run>,
}

/// One pair of ranges; regions are named by their place in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    local: u32,
    key: u32,
    /// Where the local range begins.
    pub local_offset: u64,
    /// Where the remote range begins.
    pub remote_offset: u64,
    /// How many bytes both have.
    pub len: u64,
}

impl Batch {
    /// A batch of one run.
    ///
    /// # Errors
    /// As [`BatchBuilder::build`].
    pub fn single(
        (local, local_offset): (&Region, u64),
        (key, remote_offset): (&Key, u64),
        len: u64,
    ) -> Result<Self, BatchError> {
        let mut batch = BatchBuilder::default();
        let pair = batch.pair(local, key);
        batch.run(pair, local_offset, remote_offset, len);
        batch.build()
    }

    /// Whose regions the remote ranges are in.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.0.peer
    }

    /// How many bytes it moves.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Its runs, adjacent ones merged, in the order they were added.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.0.runs
    }

    /// The key of a run of this batch.
    #[must_use]
    pub fn key(&self, run: &Run) -> &Key {
        &self.0.keys[run.key as usize]
    }

    /// The local memory of a run of this batch.
    #[must_use]
    pub fn local(&self, run: &Run) -> &Arc<RegionMemory> {
        &self.0.locals[run.local as usize]
    }

    /// `len` local bytes of a run of this batch, from `from` on.
    ///
    /// # Panics
    /// When the run has not as many.
    #[must_use]
    pub fn local_slice(&self, run: &Run, from: u64, len: u64) -> RegionSlice {
        assert!(from + len <= run.len, "{len} bytes at {from} do not lie within a run of {}", run.len);
        let start = (run.local_offset + from) as usize;
        RegionSlice::new(self.local(run), start..start + len as usize)
    }
}

/// A local region and a remote key that runs go between, as the builder names it.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    local: u32,
    key: u32,
}

/// Collects the runs of a batch.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    locals: Vec<Arc<RegionMemory>>,
    keys: Vec<Key>,
    runs: Vec<Run>,
    refused: Option<BatchError>,
    added: usize,
}

impl BatchBuilder {
    /// Names a local region and a remote one, for runs between them.
    pub fn pair(&mut self, local: &Region, key: &Key) -> Pair {
        let local = place(
            &mut self.locals,
            |known| Arc::ptr_eq(known, local.memory()),
            || Arc::clone(local.memory()),
        );
        let key = place(&mut self.keys, |known| known == key, || key.clone());
        Pair { local, key }
    }

    /// Adds a run of `len` bytes. A run that continues the one before on both sides becomes part of it; empty runs
    /// are left out.
    pub fn run(&mut self, pair: Pair, local_offset: u64, remote_offset: u64, len: u64) {
        let number = self.added;
        self.added += 1;
        let local = self.locals[pair.local as usize].memory().len() as u64;
        let remote = self.keys[pair.key as usize].len;
        if !lies_within(local_offset, len, local) {
            let error = BatchError::LocalRange { run: number, offset: local_offset, len, region: local };
            self.refused.get_or_insert(error);
        } else if !lies_within(remote_offset, len, remote) {
            let error = BatchError::RemoteRange { run: number, offset: remote_offset, len, region: remote };
            self.refused.get_or_insert(error);
        } else if len > 0 {
            self.push(Run { local: pair.local, key: pair.key, local_offset, remote_offset, len });
        }
    }

    /// Adds a run of `len` bytes for each pair of offsets, local and remote: the pages of a paged cache.
    pub fn pages(&mut self, pair: Pair, offsets: impl IntoIterator<Item = (u64, u64)>, len: u64) {
        for (local, remote) in offsets {
            self.run(pair, local, remote, len);
        }
    }

    /// The batch.
    ///
    /// # Errors
    /// When a run leaves its region, the keys have several owners, or nothing was added.
    pub fn build(self) -> Result<Batch, BatchError> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        let Some(first) = self.runs.first() else { return Err(BatchError::Empty) };
        let peer = self.keys[first.key as usize].owner;
        if let Some(other) = self.keys.iter().map(|key| key.owner).find(|owner| *owner != peer) {
            return Err(BatchError::SeveralOwners(peer, other));
        }
        let bytes = self.runs.iter().map(|run| run.len).sum();
        Ok(Batch(Arc::new(Inner { peer, bytes, locals: self.locals, keys: self.keys, runs: self.runs })))
    }

    fn push(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut() {
            let same = (last.local, last.key) == (run.local, run.key);
            let local_end = last.local_offset + last.len;
            if same && (local_end, last.remote_offset + last.len) == (run.local_offset, run.remote_offset) {
                last.len += run.len;
                return;
            }
        }
        self.runs.push(run);
    }
}

/// Whether `len` bytes at `offset` lie within a region of `region` bytes, whatever the numbers.
#[must_use]
pub(crate) fn lies_within(offset: u64, len: u64, region: u64) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= region)
}

fn place<T>(known: &mut Vec<T>, same: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> u32 {
    let at = known.iter().position(same).unwrap_or_else(|| {
        known.push(new());
        known.len() - 1
    });
    u32::try_from(at).expect("a batch names few regions")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Domain, Memory};

    fn regions() -> (Arc<Domain>, Region, Region) {
        let domain = Domain::new();
        let region = || {
            let memory = Memory::zeroed(1000).expect("there is a kilobyte");
            domain.register(memory, Access::READ_WRITE)
        };
        let (local, remote) = (region(), region());
        (domain, local, remote)
    }

    #[test]
    fn adjacent_runs_become_one() {
        let (_domain, local, remote) = regions();
        let mut batch = BatchBuilder::default();
        let pair = batch.pair(&local, &remote.key());
        batch.pages(pair, [(0, 100), (10, 110), (20, 200), (40, 210)], 10);
        let batch = batch.build().expect("all runs lie within their regions");
        let runs: Vec<_> =
            batch.runs().iter().map(|run| (run.local_offset, run.remote_offset, run.len)).collect();
        assert_eq!(runs, [(0, 100, 20), (20, 200, 10), (40, 210, 10)]);
        assert_eq!(batch.bytes(), 40);
    }

    #[test]
    fn a_run_that_leaves_its_region_is_refused() {
        let (_domain, local, remote) = regions();
        let key = remote.key();
        let outside = |local_offset, remote_offset, len| {
            Batch::single((&local, local_offset), (&key, remote_offset), len).expect_err("it leaves a region")
        };
        assert!(matches!(outside(990, 0, 11), BatchError::LocalRange { run: 0, .. }));
        assert!(matches!(outside(0, 990, 11), BatchError::RemoteRange { run: 0, .. }));
        assert!(matches!(outside(0, u64::MAX - 5, 11), BatchError::RemoteRange { .. }));
        assert_eq!(Batch::single((&local, 0), (&key, 0), 0).expect_err("it is empty"), BatchError::Empty);
    }

    #[test]
    fn a_batch_goes_to_one_peer() {
        let (_one, local, remote) = regions();
        let (_other, _, stranger) = regions();
        let mut batch = BatchBuilder::default();
        for key in [remote.key(), stranger.key()] {
            let pair = batch.pair(&local, &key);
            batch.run(pair, 0, 0, 10);
        }
        assert!(matches!(batch.build(), Err(BatchError::SeveralOwners(..))));
    }
}
