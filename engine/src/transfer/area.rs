//! Memory that takes a prefix's blocks on their way: where each image is in it.
//!
//! Layer by layer, keys and then values, block by block: what a layer's step fills lies together. Both ends compute the
//! same places from the same layout, so that offsets need not be told.

use std::ops::Range;

use super::door::ImagePlace;
use super::layout::{CacheLayout, MalformedLayout};

/// Places of images in memory for the blocks of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LandingArea {
    /// Where each layer's images begin, and bytes of one.
    layers: Vec<(usize, usize)>,
    blocks: Range<usize>,
    bytes: usize,
}

/// Why there is no area for these blocks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AreaError {
    /// The layout is none.
    #[error(transparent)]
    Malformed(#[from] MalformedLayout),
    /// More bytes than an address has.
    #[error("{0} blocks take more bytes than there are addresses")]
    TooLarge(usize),
}

impl LandingArea {
    /// For `blocks`, counted from the prompt's first, of a cache of this layout.
    ///
    /// # Errors
    /// When the layout is malformed, or the area would have no size.
    pub fn new(layout: &CacheLayout, blocks: Range<usize>) -> Result<Self, AreaError> {
        layout.check()?;
        let too_large = || AreaError::TooLarge(blocks.len());
        let (mut layers, mut bytes) = (Vec::with_capacity(layout.layers.len()), 0usize);
        for layer in &layout.layers {
            let image = layout.image_bytes(layer);
            layers.push((bytes, image));
            let both =
                image.checked_mul(2).and_then(|both| both.checked_mul(blocks.len())).ok_or_else(too_large)?;
            bytes = bytes.checked_add(both).ok_or_else(too_large)?;
        }
        Ok(Self { layers, blocks, bytes })
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Which blocks it takes.
    pub fn blocks(&self) -> Range<usize> {
        self.blocks.clone()
    }

    /// Where an image is; none where it is not of these blocks and layers.
    pub fn place(&self, place: ImagePlace) -> Option<Range<usize>> {
        let &(layer, image) = self.layers.get(place.layer)?;
        if !self.blocks.contains(&place.block) || place.side > 1 {
            return None;
        }
        let at = layer + (place.side * self.blocks.len() + place.block - self.blocks.start) * image;
        Some(at..at + image)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LayerHeads, RowOrder, RowStorage};
    use super::*;

    fn layout(heads: &[usize]) -> CacheLayout {
        CacheLayout {
            first_layer: 0,
            layers: heads.iter().map(|&heads| LayerHeads { heads: 0..heads, head_dim: 20 }).collect(),
            block_tokens: 32,
            storage: RowStorage::Int4,
            order: RowOrder::HeadMajor,
        }
    }

    #[test]
    fn images_fill_the_area_without_gaps() {
        let area = LandingArea::new(&layout(&[3, 1, 2]), 5..9).expect("a small area");
        let mut end = 0;
        for layer in 0..3 {
            for side in 0..2 {
                for block in 5..9 {
                    let place = area.place(ImagePlace { layer, side, block }).expect("it is of these");
                    assert_eq!(place.start, end);
                    end = place.end;
                }
            }
        }
        assert_eq!(end, area.bytes());
        for (layer, side, block) in [(3, 0, 5), (0, 2, 5), (0, 0, 4), (0, 0, 9)] {
            assert_eq!(area.place(ImagePlace { layer, side, block }), None);
        }
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert!(matches!(LandingArea::new(&layout(&[4096]), 0..usize::MAX), Err(AreaError::TooLarge(_))));
    }
}
