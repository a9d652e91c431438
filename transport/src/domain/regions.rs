//! Which regions there are, and who may use which bytes of them.
//!
//! The one place where ranges named by a peer are checked: with the numbers a peer made up, too.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;

use crate::contract::{Access, Denial, RegionMemory, RegionSlice, lies_within};

/// What a peer shows to be admitted to a region: taken from its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Which region.
    pub region: u32,
    /// The region's secret.
    pub capability: u64,
}

/// What a peer wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Read the bytes.
    Read,
    /// Write to them.
    Write,
}

#[derive(Debug, Default)]
pub(super) struct Regions {
    next: AtomicU32,
    known: RwLock<HashMap<u32, Entry>>,
}

#[derive(Debug)]
struct Entry {
    memory: Arc<RegionMemory>,
    access: Access,
    capability: u64,
}

impl Regions {
    pub(super) fn add(&self, memory: Arc<RegionMemory>, access: Access) -> (u32, u64) {
        let capability = rand::random();
        let mut known = self.known.write();
        let mut name = self.next.fetch_add(1, Ordering::Relaxed);
        while known.contains_key(&name) {
            name = self.next.fetch_add(1, Ordering::Relaxed);
        }
        known.insert(name, Entry { memory, access, capability });
        (name, capability)
    }

    pub(super) fn remove(&self, region: u32) {
        let removed = self.known.write().remove(&region);
        // Memory may be freed here, outside the lock.
        drop(removed);
    }

    pub(super) fn admit(
        &self,
        grant: Grant,
        offset: u64,
        len: u64,
        wanted: Use,
    ) -> Result<RegionSlice, Denial> {
        let known = self.known.read();
        let entry = known.get(&grant.region).filter(|entry| entry.capability == grant.capability);
        let entry = entry.ok_or(Denial::UnknownKey)?;
        let allowed = match wanted {
            Use::Read => entry.access.read,
            Use::Write => entry.access.write,
        };
        if !allowed {
            return Err(Denial::NotAllowed);
        }
        if !lies_within(offset, len, entry.memory.memory().len() as u64) {
            return Err(Denial::OutOfRange);
        }
        let start = offset as usize;
        Ok(RegionSlice::new(&entry.memory, start..start + len as usize))
    }
}
