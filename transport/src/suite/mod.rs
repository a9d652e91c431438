//! One suite of checks for every way of moving bytes: what the contract promises, and what is left of it under faults.
//!
//! Generic over the trait; a [`Lab`] makes pairs of endpoints, lets time pass for them, and hurts them where it can.
//! Checks panic with what was broken, so that they are tests, and run as a plain program too ([`run`]). Built for
//! tests and with the feature `suite`.

mod conformance;
mod faults;
pub mod overwritten;
pub mod process;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::contract::{Access, Batch, Memory, Op, OpError, PeerId, Region, Tag, Transport, TransportExt};
use crate::domain::Counter;

/// Where endpoints of one kind come from.
pub trait Lab {
    /// Two endpoints that are connected, the first to the second.
    fn pair(&self) -> Ends;

    /// Waits for an operation of one of a pair.
    ///
    /// # Errors
    /// As the operation ends.
    fn wait(&self, ends: &Ends, op: Op) -> Result<(), OpError> {
        ends.one.wait(op)
    }

    /// The time by which deadlines of a pair are measured.
    fn now(&self, _: &Ends) -> Instant {
        Instant::now()
    }

    /// Lets time pass for a pair.
    fn pass(&self, _: &Ends, time: Duration) {
        std::thread::sleep(time);
    }

    /// Ends the second of a pair as a process that dies does; false where the lab cannot.
    fn kill_other(&self, ends: &Ends) -> bool;
}

/// A pair of connected endpoints.
pub struct Ends {
    /// The one that connected.
    pub one: Arc<dyn Transport>,
    /// The other.
    pub other: Arc<dyn Transport>,
}

/// A check, by name.
pub type Check = (&'static str, fn(&Bench<'_>));

/// All checks, by name.
pub const CHECKS: &[&[Check]] = &[conformance::CHECKS, faults::CHECKS];

/// Runs every check whose name contains `filter` in the lab, and says which have passed: a program's way to run
/// them. A check that fails panics.
pub fn run(lab: &dyn Lab, filter: &str) -> Vec<&'static str> {
    let wanted = CHECKS.iter().copied().flatten().filter(|(name, _)| name.contains(filter));
    wanted
        .map(|(name, check)| {
            check(&Bench::new(lab));
            *name
        })
        .collect()
}

/// A pair under test, with what checks need again and again.
pub struct Bench<'a> {
    lab: &'a dyn Lab,
    ends: Ends,
}

impl<'a> Bench<'a> {
    /// A new pair of the lab's.
    #[must_use]
    pub fn new(lab: &'a dyn Lab) -> Self {
        Self { lab, ends: lab.pair() }
    }

    fn one(&self) -> &dyn Transport {
        &*self.ends.one
    }

    fn other(&self) -> &dyn Transport {
        &*self.ends.other
    }

    fn one_id(&self) -> PeerId {
        self.ends.one.domain().id()
    }

    fn other_id(&self) -> PeerId {
        self.ends.other.domain().id()
    }

    fn soon(&self) -> Instant {
        self.within(Duration::from_secs(20))
    }

    fn within(&self, time: Duration) -> Instant {
        self.lab.now(&self.ends) + time
    }

    fn wait(&self, op: Op) -> Result<(), OpError> {
        self.lab.wait(&self.ends, op)
    }

    fn pass(&self, time: Duration) {
        self.lab.pass(&self.ends, time);
    }

    fn region(&self, end: &dyn Transport, bytes: usize, access: Access) -> Region {
        let memory = Memory::zeroed(bytes).expect("there is memory");
        end.register(memory, access).expect("host memory can be registered everywhere")
    }

    /// Opens a tag at the second end for what the first writes.
    fn expect(&self, tag: Tag) -> Counter {
        self.other().domain().expect(tag, &[self.one_id()]).expect("checks use a tag once")
    }

    /// Regions of so many bytes: to write from, with a pattern, and to write to.
    fn source_and_target(&self, bytes: usize, seed: u8) -> (Region, Region) {
        let source = self.region(self.one(), bytes, Access::LOCAL);
        source.write_at(0, &pattern(bytes, seed));
        (source, self.region(self.other(), bytes, Access::WRITE))
    }

    /// A write of all of `source` to `target`.
    fn write(&self, source: &Region, target: &Region, tag: Tag, deadline: Instant) -> Op {
        let batch = Batch::single((source, 0), (&target.key(), 0), source.len() as u64);
        self.one().write(&batch.expect("they are as long"), tag, deadline)
    }
}

fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed).collect()
}

fn contents(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len()];
    region.read_at(0, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
