//! What an engine offers to others that move its prefixes.
//!
//! An engine that computes a prompt gives its blocks away as it computes them; one that is given blocks takes them over
//! when all are there. Promises only: `serving` keeps them, and who moves the bytes between two processes is the
//! caller's affair.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::CacheLayout;
use crate::api::EventSink;
use crate::event::GenerateError;
use crate::request::Request;

/// What another engine must know of this one's cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheDescription {
    /// Which model's keys and values it holds: engines exchange blocks only where this is equal.
    pub model: ModelIdentity,
    /// How its blocks lie.
    pub layout: CacheLayout,
}

/// A digest of a model's weights and of how they are computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity(pub [u8; 32]);

/// The beginning of a prompt in whole blocks, of which some are wanted from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// The tokens of all blocks, from the first of the prompt on.
    pub tokens: Vec<u32>,
    /// Which of the blocks are wanted: those behind what is cached, to the end of `tokens`.
    pub blocks: Range<usize>,
}

impl Prefix {
    /// Tokens of the blocks that are wanted.
    pub fn wanted_tokens(&self) -> usize {
        self.blocks.len() * crate::blocks::BLOCK_TOKENS
    }
}

/// One image: a block's keys or values in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImagePlace {
    /// The layer, counted from the engine's first.
    pub layer: usize,
    /// 0 for keys, 1 for values.
    pub side: usize,
    /// The block, counted from the prompt's first.
    pub block: usize,
}

/// Takes blocks while they are computed. Called on threads that compute: must not block.
pub trait BlockSink: Send + Sync {
    /// An image, as the giver's layout says. Only good if the request that computes it finishes well.
    fn image(&self, place: ImagePlace, image: &[u8]);

    /// All images of `blocks` in `layer` have been given, of both sides.
    fn complete(&self, layer: usize, blocks: Range<usize>);
}

/// Has blocks to be taken over, all of them.
pub trait BlockSource: Send + Sync {
    /// Copies an image, as the taker's layout says, to `image`.
    fn read(&self, place: ImagePlace, image: &mut [u8]);
}

/// Why blocks were not taken over. The prompt can be computed all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// What precedes the blocks is no longer cached.
    #[error("block {wanted} was to follow {cached} cached ones")]
    PrefixGone {
        /// The first block that was brought.
        wanted: usize,
        /// Blocks that are cached.
        cached: usize,
    },
    /// The pool has no room beside what runs.
    #[error(transparent)]
    NoRoom(#[from] crate::blocks::OutOfBlocks),
    /// The blocks could not be written, or the engine is ending.
    #[error("{0}")]
    Failed(String),
}

/// Moves prefixes in and out of an engine.
pub trait PrefixDoor: Send + Sync {
    /// What peers must know.
    fn description(&self) -> &CacheDescription;

    /// The blocks that computing `request`'s prompt would begin with and that are not cached; none wanted where there
    /// is nothing to gain. Waits for a step at most.
    ///
    /// # Errors
    /// As of submitting the request.
    fn missing(&self, request: Request) -> Result<Prefix, GenerateError>;

    /// Computes a prefix under the name `id` as a request that has one token of output, and gives the blocks that are
    /// wanted to `sink`. They are good when `events` has told that the request finished by itself.
    fn compute(&self, id: &str, prefix: Prefix, sink: Arc<dyn BlockSink>, events: EventSink);

    /// Takes a prefix's wanted blocks over into the cache, where requests find them. Waits until it is done. How many blocks were new.
    ///
    /// # Errors
    /// See [`ImportError`]; the cache is then as it was, and nothing is held.
    fn import(&self, prefix: Prefix, source: Arc<dyn BlockSource>) -> Result<usize, ImportError>;
}
