//! What each rank of one cache gives to each rank of another.
//!
//! Pure: layouts in, ranges out. Both sides may be divided differently, by layers (stages) and by heads (ranks of a
//! stage), and store rows differently; a head that several source ranks hold is given by one of them, spread over the
//! targets. What a target needs and no source holds is an error, as is a head of another width.

use std::ops::Range;

use super::layout::{CacheLayout, LayerHeads, MalformedLayout};

/// Why one cache cannot be filled from another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// A side's description is none.
    #[error(transparent)]
    Malformed(#[from] MalformedLayout),
    /// No source rank holds a row that a target rank needs.
    #[error("no source rank holds head {head} of layer {layer}; both sides must run the same model")]
    Missing {
        /// The model's layer.
        layer: usize,
        /// Its KV head.
        head: usize,
    },
    /// A layer's heads differ in width.
    #[error(
        "heads of layer {layer} have {source_dim} values on one side and {target_dim} on the other; both sides must run the same model"
    )]
    HeadDim {
        /// The model's layer.
        layer: usize,
        /// Values of a head at the source.
        source_dim: usize,
        /// And at the target.
        target_dim: usize,
    },
    /// The sides are of models with other numbers of layers.
    #[error(
        "one side has {source_layers} layers, the other {target_layers}; both sides must run the same model"
    )]
    Layers {
        /// At the source.
        source_layers: usize,
        /// At the target.
        target_layers: usize,
    },
}

/// Heads of a layer that one source rank gives to one target rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portion {
    /// The source rank.
    pub source: usize,
    /// The target rank.
    pub target: usize,
    /// The model's layer.
    pub layer: usize,
    /// Which of the layer's heads.
    pub heads: Range<usize>,
}

/// How the blocks of one cache become blocks of another.
#[derive(Debug, Clone)]
pub struct TransferPlan {
    sources: Vec<CacheLayout>,
    targets: Vec<CacheLayout>,
    portions: Vec<Portion>,
}

impl TransferPlan {
    /// Between the ranks of two caches of one model.
    ///
    /// # Errors
    /// See [`MappingError`].
    pub fn new(sources: Vec<CacheLayout>, targets: Vec<CacheLayout>) -> Result<Self, MappingError> {
        sources.iter().chain(&targets).try_for_each(CacheLayout::check)?;
        let end = |side: &[CacheLayout]| side.iter().map(|rank| rank.layer_numbers().end).max().unwrap_or(0);
        let (source_layers, target_layers) = (end(&sources), end(&targets));
        if source_layers != target_layers {
            return Err(MappingError::Layers { source_layers, target_layers });
        }
        let mut portions = Vec::new();
        for (number, target) in targets.iter().enumerate() {
            for (layer, heads) in target.layer_numbers().zip(&target.layers) {
                portions_of_layer(&sources, (number, layer), heads, &mut portions)?;
            }
        }
        Ok(Self { sources, targets, portions })
    }

    /// What a source rank gives of a layer.
    pub fn portions(&self, source: usize, layer: usize) -> impl Iterator<Item = &Portion> {
        self.portions.iter().filter(move |portion| (portion.source, portion.layer) == (source, layer))
    }

    /// The ranks that give.
    pub fn sources(&self) -> &[CacheLayout] {
        &self.sources
    }

    /// The ranks that are given to.
    pub fn targets(&self) -> &[CacheLayout] {
        &self.targets
    }

    /// Puts the portion's rows of one side of source block `block`, whose image is `image`, into `room`: the images of
    /// the target's blocks that hold `tokens`, one after the other. Rows of other tokens are left out. The ranges of
    /// `room` that were written, rising, none adjacent to the next.
    ///
    /// # Panics
    /// When `tokens` are not whole blocks of the target, or a slice is not as long as the layouts say.
    pub fn carry(
        &self,
        portion: &Portion,
        (block, image): (usize, &[u8]),
        tokens: Range<usize>,
        room: &mut [u8],
    ) -> Vec<Range<usize>> {
        let (source, target) = (&self.sources[portion.source], &self.targets[portion.target]);
        let of = |side: &CacheLayout| side.layer(portion.layer).expect("portions are of held layers").clone();
        let mut carrying = Carrying {
            from: (source, of(source)),
            to: (target, of(target)),
            heads: portion.heads.clone(),
            first_block: tokens.start / target.block_tokens,
            values: Vec::new(),
        };
        let image_bytes = target.image_bytes(&carrying.to.1);
        assert_eq!(image.len(), source.image_bytes(&carrying.from.1), "an image is a block's");
        assert!([tokens.start, tokens.end].iter().all(|at| at.is_multiple_of(target.block_tokens)));
        assert_eq!(room.len(), tokens.len() / target.block_tokens * image_bytes, "there is room for all");
        let held = block * source.block_tokens..(block + 1) * source.block_tokens;
        let tokens = held.start.max(tokens.start)..held.end.min(tokens.end);
        if carrying.is_alike() && tokens == held {
            let first = (block - carrying.first_block) * image_bytes;
            room[first..first + image_bytes].copy_from_slice(image);
            return std::iter::once(first..first + image_bytes).collect();
        }
        merged(carrying.rows(image, tokens, room))
    }
}

/// One portion of one block on its way.
struct Carrying<'a> {
    from: (&'a CacheLayout, LayerHeads),
    to: (&'a CacheLayout, LayerHeads),
    heads: Range<usize>,
    /// The target's block that the room begins with.
    first_block: usize,
    values: Vec<f32>,
}

impl Carrying<'_> {
    /// Whether an image of one side is one of the other.
    fn is_alike(&self) -> bool {
        let (from, to) = (self.from.0, self.to.0);
        let alike = (from.block_tokens, from.storage, from.order) == (to.block_tokens, to.storage, to.order);
        alike && self.from.1.heads == self.heads && self.to.1.heads == self.heads
    }

    fn rows(&mut self, image: &[u8], tokens: Range<usize>, room: &mut [u8]) -> Vec<Range<usize>> {
        let mut written = Vec::new();
        for token in tokens {
            for head in self.heads.clone() {
                written.extend(self.row(image, (head, token), room));
            }
        }
        written
    }

    /// Puts one row where it belongs.
    fn row(&mut self, image: &[u8], (head, token): (usize, usize), room: &mut [u8]) -> [Range<usize>; 2] {
        let place = |(layout, layer): &(&CacheLayout, LayerHeads)| {
            layout.place(layer, head - layer.heads.start, token % layout.block_tokens)
        };
        let (from, to) = (place(&self.from), place(&self.to));
        let block = token / self.to.0.block_tokens - self.first_block;
        let base = block * self.to.0.image_bytes(&self.to.1);
        let [numbers, scales] = [to.numbers, to.scales].map(|part| base + part.start..base + part.end);
        if self.from.0.storage == self.to.0.storage {
            room[numbers.clone()].copy_from_slice(&image[from.numbers]);
            room[scales.clone()].copy_from_slice(&image[from.scales]);
        } else {
            self.values.resize(self.to.1.head_dim, 0.0);
            self.from.0.storage.decode(&image[from.numbers], &image[from.scales], &mut self.values);
            let (before, after) = room.split_at_mut(scales.start);
            let scales = &mut after[..scales.len()];
            self.to.0.storage.encode(&self.values, &mut before[numbers.clone()], scales);
        }
        [numbers, scales]
    }
}

/// Who gives a target rank its heads of a layer.
fn portions_of_layer(
    sources: &[CacheLayout],
    (target, layer): (usize, usize),
    wanted: &LayerHeads,
    portions: &mut Vec<Portion>,
) -> Result<(), MappingError> {
    for head in wanted.heads.clone() {
        let holds = |rank: &&CacheLayout| rank.layer(layer).is_some_and(|held| held.heads.contains(&head));
        let holders = sources.iter().filter(holds).count();
        if holders == 0 {
            return Err(MappingError::Missing { layer, head });
        }
        let nth = |(_, rank): &(usize, &CacheLayout)| holds(rank);
        let Some((source, rank)) = sources.iter().enumerate().filter(nth).nth(target % holders) else {
            return Err(MappingError::Missing { layer, head });
        };
        let source_dim = rank.layer(layer).map_or(0, |held| held.head_dim);
        if source_dim != wanted.head_dim {
            return Err(MappingError::HeadDim { layer, source_dim, target_dim: wanted.head_dim });
        }
        match portions.last_mut() {
            Some(last) if (last.source, last.target, last.layer) == (source, target, layer) => {
                last.heads.end = head + 1;
            }
            _ => portions.push(Portion { source, target, layer, heads: head..head + 1 }),
        }
    }
    Ok(())
}

/// Ranges in rising order, adjacent ones as one, without empty ones.
fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}
