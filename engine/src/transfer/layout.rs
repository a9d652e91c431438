//! How one rank's KV cache lies, as another engine needs to know it.
//!
//! A block is an image of bytes a layer and side. Says which layers and heads a rank holds and where each row lies in
//! an image; knows no pools and no addresses. What a peer says of itself is checked before anything is computed from it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::storage::RowStorage;

/// What one rank's blocks hold, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLayout {
    /// The model's layer that is the rank's first.
    pub first_layer: usize,
    /// The rank's layers.
    pub layers: Vec<LayerHeads>,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// How rows are stored.
    pub storage: RowStorage,
    /// In which order they lie in an image.
    pub order: RowOrder,
}

/// What a rank holds of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerHeads {
    /// Which of the layer's KV heads.
    pub heads: Range<usize>,
    /// Values of a head.
    pub head_dim: usize,
}

/// How a block's rows lie in its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RowOrder {
    /// Head by head: the numbers of all tokens, then the scales of all tokens.
    HeadMajor,
    /// Token by token and head by head: numbers, then scales.
    TokenMajor,
}

/// Where a row lies in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowPlace {
    pub(super) numbers: Range<usize>,
    pub(super) scales: Range<usize>,
}

/// A layout that no cache has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a cache must have 1 to {most} {what}, got {found}")]
pub struct MalformedLayout {
    what: &'static str,
    most: usize,
    found: usize,
}

impl CacheLayout {
    /// Checks that all numbers are such that sizes computed from them do not overflow.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), MalformedLayout> {
        let within = |what, found: usize, most: usize| match (1..=most).contains(&found) {
            true => Ok(()),
            false => Err(MalformedLayout { what, most, found }),
        };
        within("layers", self.layers.len(), MOST_LAYERS)?;
        within("layers of the model", self.first_layer.saturating_add(self.layers.len()), MOST_LAYERS)?;
        within("tokens a block", self.block_tokens, MOST_BLOCK_TOKENS)?;
        self.layers.iter().try_for_each(|layer| {
            within("heads a layer", layer.heads.len(), MOST_HEADS)?;
            within("heads of the model", layer.heads.end, MOST_HEADS)?;
            within("values a head", layer.head_dim, MOST_HEAD_DIM)
        })
    }

    /// Numbers of the model's layers that it holds.
    pub fn layer_numbers(&self) -> Range<usize> {
        self.first_layer..self.first_layer + self.layers.len()
    }

    /// What it holds of one of the model's layers.
    pub fn layer(&self, number: usize) -> Option<&LayerHeads> {
        self.layers.get(number.checked_sub(self.first_layer)?)
    }

    /// Bytes of a block's image in a layer, one side.
    pub fn image_bytes(&self, layer: &LayerHeads) -> usize {
        layer.heads.len() * self.block_tokens * self.storage.row_bytes(layer.head_dim)
    }

    /// Bytes of one block in all layers, both sides.
    pub fn block_bytes(&self) -> usize {
        self.layers.iter().map(|layer| 2 * self.image_bytes(layer)).sum()
    }

    /// Where a row lies; `head` is counted from the first that the rank holds.
    pub(super) fn place(&self, layer: &LayerHeads, head: usize, token: usize) -> RowPlace {
        let numbers = self.storage.number_bytes(layer.head_dim);
        let scales = self.storage.scale_bytes(layer.head_dim);
        let (numbers_at, scales_at) = match self.order {
            RowOrder::HeadMajor => {
                let plane = head * self.block_tokens * (numbers + scales);
                (plane + token * numbers, plane + self.block_tokens * numbers + token * scales)
            }
            RowOrder::TokenMajor => {
                let row = (token * layer.heads.len() + head) * (numbers + scales);
                (row, row + numbers)
            }
        };
        RowPlace { numbers: numbers_at..numbers_at + numbers, scales: scales_at..scales_at + scales }
    }
}

const MOST_LAYERS: usize = 4096;
const MOST_HEADS: usize = 4096;
const MOST_HEAD_DIM: usize = 8192;
const MOST_BLOCK_TOKENS: usize = 4096;
