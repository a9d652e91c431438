//! KV storage in MLX arrays, attended by MLX's own fused attention.
//!
//! One array a sequence, layer and side, `[1, kv_heads, capacity, head_dim]`, written in place where
//! MLX can donate it and grown in steps of `GROWTH` tokens. Works on every device in any float dtype.

use std::collections::HashMap;
use std::ops::Range;

use mlxcel_mlx_bridge::fast::{Mask, scaled_dot_product_attention};
use mlxcel_mlx_bridge::{Array, Dtype, Result};

use super::{KvCache, defect, not_open};
use crate::decoder::{Attention, StepInputs, length};
use crate::schedule::SequenceId;

/// Tokens by which a sequence's storage grows.
const GROWTH: usize = 256;

/// The KV cache of engines that compute in MLX graphs.
pub(crate) struct GraphKv {
    layers: usize,
    sequences: HashMap<SequenceId, Vec<LayerKv>>,
}

/// Keys and values of one sequence in one layer.
#[derive(Clone, Default)]
struct LayerKv {
    sides: Option<[Array; 2]>,
    capacity: usize,
    length: usize,
}

impl GraphKv {
    /// Storage for a decoder of `layers` layers.
    pub(crate) fn new(layers: usize) -> Self {
        Self { layers, sequences: HashMap::new() }
    }
}

impl KvCache for GraphKv {
    fn open(&mut self, sequence: SequenceId) {
        self.sequences.insert(sequence, vec![LayerKv::default(); self.layers]);
    }

    fn attend(
        &mut self,
        layer: usize,
        attention: &Attention,
        query_key_value: [&Array; 3],
        step: &StepInputs,
    ) -> Result<Array> {
        let mut mixed = Vec::with_capacity(step.plan.spans.len());
        for (span, rows) in step.plan.spans.iter().zip(step.plan.rows()) {
            let kv = self
                .sequences
                .get_mut(&span.sequence)
                .and_then(|layers| layers.get_mut(layer))
                .ok_or_else(|| not_open(span.sequence))?;
            if span.start == 0 {
                // The sequence begins, or begins again after it was preempted.
                kv.length = 0;
            }
            let [query, key, value] = query_key_value.map(|x| head_major(x, &rows));
            let [keys, values] = kv.append([key?, value?], rows.len(), attention)?;
            let mask = mask(attention.window, span.start, rows.len(), keys.dtype())?;
            let out = scaled_dot_product_attention(&query?, &keys, &values, attention.scale, mask.as_ref())?;
            // [1, heads, tokens, head_dim] back to [tokens, heads, head_dim].
            mixed.push(out.transpose(&[0, 2, 1, 3])?.squeeze(&[0])?);
        }
        match mixed.as_slice() {
            [one] => Ok(one.clone()),
            many => Array::concatenate(&many.iter().collect::<Vec<_>>(), 0),
        }
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence);
    }

    fn bytes(&self) -> u64 {
        let sides = self.sequences.values().flatten().filter_map(|kv| kv.sides.as_ref());
        sides.flatten().map(|side| side.nbytes() as u64).sum()
    }
}

impl LayerKv {
    /// Writes `tokens` new keys and values and returns all valid ones, `[1, kv_heads, length, head_dim]`.
    fn append(&mut self, new: [Array; 2], tokens: usize, attention: &Attention) -> Result<[Array; 2]> {
        let (start, end) = (self.length, self.length + tokens);
        let (heads, dim) = (length(attention.kv_heads), length(attention.head_dim));
        self.reserve(end, &new, attention)?;
        let Some([keys, values]) = self.sides.take() else {
            return Err(defect("storage was not reserved"));
        };
        let [new_keys, new_values] = new;
        let at = ([0, 0, length(start), 0], [1, heads, length(end), dim]);
        let keys = keys.slice_update(&new_keys, &at.0, &at.1)?;
        let values = values.slice_update(&new_values, &at.0, &at.1)?;
        self.length = end;
        let valid = |side: &Array| side.slice(&[0, 0, 0, 0], &[1, heads, length(end), dim]);
        let views = [valid(&keys)?, valid(&values)?];
        self.sides = Some([keys, values]);
        Ok(views)
    }

    fn reserve(&mut self, tokens: usize, new: &[Array; 2], attention: &Attention) -> Result<()> {
        if tokens <= self.capacity {
            return Ok(());
        }
        let capacity = tokens.div_ceil(GROWTH) * GROWTH;
        let added =
            [1, length(attention.kv_heads), length(capacity - self.capacity), length(attention.head_dim)];
        let mut grown = Vec::with_capacity(2);
        for (index, like) in new.iter().enumerate() {
            let zeros = Array::zeros(&added, like.dtype())?;
            grown.push(match &self.sides {
                Some(sides) => Array::concatenate(&[&sides[index], &zeros], 2)?,
                None => zeros,
            });
        }
        let [keys, values] = <[Array; 2]>::try_from(grown).map_err(|_| defect("two sides are reserved"))?;
        self.sides = Some([keys, values]);
        self.capacity = capacity;
        Ok(())
    }
}

/// Rows of `[tokens, heads, head_dim]` as `[1, heads, rows, head_dim]`.
fn head_major(x: &Array, rows: &Range<usize>) -> Result<Array> {
    let shape = x.shape();
    let (heads, dim) = (shape[1], shape[2]);
    let part = if rows.len() == shape[0] as usize {
        x.clone()
    } else {
        x.slice(&[length(rows.start), 0, 0], &[length(rows.end), heads, dim])?
    };
    part.reshape(&[1, length(rows.len()), heads, dim])?.transpose(&[0, 2, 1, 3])
}

/// An owned attention mask.
enum OwnedMask {
    None,
    Causal,
    Array(Array),
}

impl OwnedMask {
    fn as_ref(&self) -> Mask<'_> {
        match self {
            Self::None => Mask::None,
            Self::Causal => Mask::Causal,
            Self::Array(mask) => Mask::Array(mask),
        }
    }
}

/// What the queries at `start..start + count` may see of the keys `0..start + count`.
fn mask(window: Option<usize>, start: usize, count: usize, dtype: Dtype) -> Result<OwnedMask> {
    let total = start + count;
    match window {
        Some(window) if window < total => {
            let row = |query: usize| {
                (0..total).map(move |key| {
                    let seen = key <= query && key + window > query;
                    if seen { 0.0 } else { f32::NEG_INFINITY }
                })
            };
            let values: Vec<f32> = (start..total).flat_map(row).collect();
            let mask = Array::from_slice(&values, &[length(count), length(total)])?;
            Ok(OwnedMask::Array(mask.astype(dtype)?))
        }
        _ if count == 1 => Ok(OwnedMask::None),
        _ => Ok(OwnedMask::Causal),
    }
}
