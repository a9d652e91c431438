//! Memory between an engine's cache and the transport, at both ends of a move.
//!
//! The sender's holds what the receiver's is to hold, byte for byte. Pools themselves are never registered: a late write
//! of a move that was given up can reach nothing that anyone reads.

use std::ops::Range;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use mlxcel_engine::transfer::{
    BlockSink, BlockSource, CacheDescription, ImagePlace, LandingArea, TransferPlan,
};
use mlxcel_transport::{Region, RegionMemory, RegionSlice};
use serde::{Deserialize, Serialize};

use super::{Note, Staged};

/// What a receiver tells of its memory.
#[derive(Serialize, Deserialize)]
pub(super) struct Landing {
    /// Of the receiver's cache.
    pub(super) description: CacheDescription,
    /// Under which batches are counted.
    pub(super) tag: u64,
    /// To the memory, which is a `LandingArea` for the cache's layout.
    pub(super) key: Vec<u8>,
}

/// Takes images from an engine, as the receiver will store them.
pub(super) struct Stage {
    pub(super) plan: TransferPlan,
    pub(super) area: LandingArea,
    pub(super) region: Region,
    pub(super) notes: Sender<Note>,
    /// Images that no note has told of.
    pub(super) written: Mutex<Vec<Range<usize>>>,
    pub(super) _counted: Staged,
}

impl BlockSink for Stage {
    fn image(&self, place: ImagePlace, image: &[u8]) {
        // Both have the same block size: `sending` has seen to it.
        let Some(to) = self.area.place(place) else { return };
        let tokens = self.plan.targets()[0].block_tokens;
        let tokens = place.block * tokens..(place.block + 1) * tokens;
        let mut room = vec![0; to.len()];
        for portion in self.plan.portions(0, place.layer) {
            self.plan.carry(portion, (place.block, image), tokens.clone(), &mut room);
        }
        self.region.write_at(to.start, &room);
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(to);
    }

    fn complete(&self, _: usize, _: Range<usize>) {
        let written = std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner));
        // Whoever sends them may have given up.
        let _ = self.notes.send(Note::Staged(written));
    }
}

/// What has arrived, to be taken over by an engine.
pub(super) struct Landed {
    pub(super) area: LandingArea,
    pub(super) memory: Arc<RegionMemory>,
    pub(super) _counted: Staged,
}

impl BlockSource for Landed {
    fn read(&self, place: ImagePlace, image: &mut [u8]) {
        let from = self.area.place(place).expect("an engine takes over what it has asked for");
        RegionSlice::new(&self.memory, from).copy_to(image);
    }
}
