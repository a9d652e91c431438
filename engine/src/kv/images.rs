//! Blocks of a pool that lies token by token, to and from images: through host memory.
//!
//! An image is a block's rows, head by head, numbers and then scales. Arrays hold all steps of a row before all least
//! values, images pairs of them: that is all that is put in another order here.

use mlxcel_mlx_bridge::{Array, Dtype, Result, eval};

use super::PutLayer;
use super::rows::{defect, grown, indices, put_rows, row};
use crate::blocks::{BLOCK_TOKENS, BlockId};
use crate::decoder::length;
use crate::transfer::{BlockSource, ImagePlace, RowStorage, Tap};

/// Gives a tap's blocks of a layer that has these sides: arrays `[rows, kv_heads, _]`, of floats, or of codes and scales.
pub(super) fn give(layer: usize, sides: [&[Array]; 2], tap: &Tap) -> Result<()> {
    let blocks: Vec<BlockId> = tap.blocks().map(|(_, block)| block).collect();
    let rows = (0..blocks.len() * BLOCK_TOKENS).map(|token| row(&blocks, token));
    let rows = indices(rows)?;
    let held = sides.iter().flat_map(|side| side.iter()).map(|part| part.shape()[0] as usize / BLOCK_TOKENS);
    if let Some(missing) = held.min().and_then(|held| blocks.iter().find(|block| block.0 as usize >= held)) {
        return Err(defect(&format!("the pool has no block {} to give", missing.0)));
    }
    let mut images = Vec::new();
    for side in sides {
        let parts = side.iter().map(|part| part.take(&rows, 0)?.view(Dtype::Uint8));
        let parts = parts.collect::<Result<Vec<Array>>>()?;
        eval(&parts.iter().collect::<Vec<_>>())?;
        images.push(images_of(&parts, blocks.len())?);
    }
    tap.give(layer, |side, block, take| {
        let at = blocks.iter().position(|given| *given == block);
        let image = at.and_then(|at| images[side].get(at));
        take(image.ok_or_else(|| defect("a tap gives blocks that it does not name"))?);
        Ok(())
    })
}

/// The images of `blocks` blocks whose rows are `parts`, as bytes.
fn images_of(parts: &[Array], blocks: usize) -> Result<Vec<Vec<u8>>> {
    let bytes = parts.iter().map(Array::as_slice::<u8>).collect::<Result<Vec<&[u8]>>>()?;
    let [numbers, scales @ ..] = bytes.as_slice() else {
        return Err(defect("a side of a pool has no array"));
    };
    let of_block = |bytes: &[u8], at: usize| {
        let each = bytes.len() / blocks.max(1);
        bytes[at * each..(at + 1) * each].to_vec()
    };
    let Some(scales) = scales.first() else {
        return Ok((0..blocks).map(|at| of_block(numbers, at)).collect());
    };
    let shape = parts[0].shape();
    let rows = BLOCK_TOKENS * shape[1] as usize;
    let image = |at| {
        let (numbers, scales) = (of_block(numbers, at), of_block(scales, at));
        let each = numbers.chunks_exact(numbers.len() / rows).zip(scales.chunks_exact(scales.len() / rows));
        each.flat_map(|(numbers, scales)| numbers.iter().copied().chain(paired(scales)).collect::<Vec<u8>>())
            .collect()
    };
    Ok((0..blocks).map(image).collect())
}

/// Steps and least values, `bf16` each, as pairs.
fn paired(scales: &[u8]) -> Vec<u8> {
    let (steps, least) = scales.split_at(scales.len() / 2);
    steps
        .chunks_exact(2)
        .zip(least.chunks_exact(2))
        .flat_map(|(step, least)| [step, least].concat())
        .collect()
}

/// The reverse.
fn unpaired(pairs: &[u8]) -> Vec<u8> {
    let half = |first: usize| pairs.chunks_exact(4).flat_map(move |pair| pair[first..first + 2].to_vec());
    half(0).chain(half(2)).collect()
}

/// Rows that are to be put, and where.
pub(super) struct Rows {
    /// Of each side, as arrays of the pool hold them.
    sides: [Vec<Array>; 2],
    /// Their rows in the pool, u32 `[rows, 1, 1]`.
    places: Array,
    /// Blocks the pool must have, and may have.
    blocks: [usize; 2],
}

impl Rows {
    /// Of a layer's `blocks`, read from `source`, for a pool that may have `most` blocks.
    pub(super) fn read(
        layer: &PutLayer<'_>,
        (blocks, most): (&[(usize, BlockId)], usize),
        source: &dyn BlockSource,
    ) -> Result<Self> {
        let ids: Vec<BlockId> = blocks.iter().map(|(_, block)| *block).collect();
        let needed = ids.iter().map(|block| block.0 as usize + 1).max().unwrap_or(0);
        if needed > most {
            return Err(defect(&format!("block {} was to be put, the pool has {most}", needed - 1)));
        }
        let places = indices((0..ids.len() * BLOCK_TOKENS).map(|token| row(&ids, token)))?;
        let side = |side| arrays(layer, (side, blocks), source);
        Ok(Self { sides: [side(0)?, side(1)?], places: places.expand_dims(&[1, 2])?, blocks: [needed, most] })
    }

    /// Whether the pool holds rows like these.
    pub(super) fn check(&self, held: [&[Array]; 2]) -> Result<()> {
        let parts = held.into_iter().flatten().zip(self.sides.iter().flatten());
        for (held, new) in parts {
            if held.dtype() != new.dtype() || held.shape()[1..] != new.shape()[1..] {
                let (found, wanted) = (held.dtype(), new.dtype());
                return Err(defect(&format!("images hold {wanted} {:?}, the pool {found}", new.shape())));
            }
        }
        Ok(())
    }

    /// A side with its rows in place. Nothing else should refer to `held`, so that MLX writes in place.
    pub(super) fn put(&self, side: usize, held: Option<Vec<Array>>) -> Result<Vec<Array>> {
        let [needed, most] = self.blocks;
        let mut held = held.into_iter().flatten();
        let placed = self.sides[side].iter().map(|new| {
            let grown = grown(held.next(), new, needed, most)?;
            put_rows(&grown, &self.places, new)
        });
        placed.collect()
    }
}

/// The rows of one side of the blocks, as arrays of the pool hold them.
fn arrays(
    layer: &PutLayer<'_>,
    (side, blocks): (usize, &[(usize, BlockId)]),
    source: &dyn BlockSource,
) -> Result<Vec<Array>> {
    let PutLayer { number, heads, layout } = *layer;
    let (dtype, d) = (layout.storage, heads.head_dim);
    let mut image = vec![0; layout.image_bytes(heads)];
    let (mut numbers, mut scales) = (Vec::with_capacity(image.len() * blocks.len()), Vec::new());
    for &(block, _) in blocks {
        source.read(ImagePlace { layer: number, side, block }, &mut image);
        for row in image.chunks_exact(dtype.row_bytes(d)) {
            let (own_numbers, own_scales) = row.split_at(dtype.number_bytes(d));
            numbers.extend_from_slice(own_numbers);
            scales.extend(unpaired(own_scales));
        }
    }
    let (number_dtype, width) = match dtype {
        RowStorage::F32 => (Dtype::Float32, d),
        RowStorage::F16 => (Dtype::Float16, d),
        RowStorage::Bf16 => (Dtype::Bfloat16, d),
        RowStorage::Int8 | RowStorage::Int4 => (Dtype::Uint8, dtype.number_bytes(d)),
    };
    let shape =
        |width: usize| [length(blocks.len() * BLOCK_TOKENS), length(heads.heads.len()), length(width)];
    let mut parts = vec![Array::from_bytes(&numbers, number_dtype, &shape(width))?];
    if !scales.is_empty() {
        parts.push(Array::from_bytes(&scales, Dtype::Bfloat16, &shape(dtype.scale_bytes(d) / 2))?);
    }
    Ok(parts)
}
