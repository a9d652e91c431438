//! Blocks of a step that are to be given away.

use std::ops::Range;
use std::sync::Arc;

use super::door::{BlockSink, ImagePlace};
use crate::blocks::BlockId;

/// Blocks that are full when a step has been computed, and who is given them.
#[derive(Clone)]
pub(crate) struct Tap {
    /// Where they are in the pool.
    pub(crate) blocks: Arc<[BlockId]>,
    /// Which of these, counted from the prompt's first block, are given.
    pub(crate) given: Range<usize>,
    pub(crate) sink: Arc<dyn BlockSink>,
}

impl Tap {
    /// The blocks given: their numbers in the prompt and in the pool.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (usize, BlockId)> + '_ {
        self.given.clone().zip(&self.blocks[self.given.clone()]).map(|(at, block)| (at, *block))
    }

    /// Gives a layer's images as `image` has them: of a side and a block of the pool.
    ///
    /// # Errors
    /// The first of `image`.
    pub(crate) fn give<E>(
        &self,
        layer: usize,
        mut image: impl FnMut(usize, BlockId, &mut dyn FnMut(&[u8])) -> Result<(), E>,
    ) -> Result<(), E> {
        for side in 0..2 {
            for (block, id) in self.blocks() {
                let place = ImagePlace { layer, side, block };
                image(side, id, &mut |bytes| self.sink.image(place, bytes))?;
            }
        }
        self.sink.complete(layer, self.given.clone());
        Ok(())
    }
}
