//! KV storage in MLX arrays, attended by MLX's own fused attention.
//!
//! Arrays a layer and side, `[rows, kv_heads, _]` in which block `b` is the rows from `b * BLOCK_TOKENS` on: token
//! by token, so that a sequence's blocks are put together by one gather of rows. Attention runs over that contiguous form,
//! sequence by sequence, because MLX's kernel reads no block tables. Works on every device in any float dtype; it is
//! what Metal runs, and the slow twin of the CPU kernel. How rows are held is `encoding`'s: where they are codes, what was
//! gathered is dequantised, and new rows are attended to as they will be read later.

use std::ops::Range;

use mlxcel_kernels::KvDtype;
use mlxcel_mlx_bridge::fast::{Mask, attention_with_sinks, scaled_dot_product_attention};
use mlxcel_mlx_bridge::{Array, Dtype, Error, ErrorKind, Result};

use super::encoding::Encoding;
use super::{AttentionRule, KvCache};
use crate::blocks::{BLOCK_TOKENS, BlockId};
use crate::decoder::{StepInputs, length};
use crate::schedule::{Span, StepPlan};

/// The KV cache of engines that compute in MLX graphs.
pub(crate) struct GraphKv {
    layers: Vec<Option<[Held; 2]>>,
    encoding: Encoding,
    /// Blocks the pool may grow to.
    blocks: usize,
    step: Option<BoundStep>,
}

/// What is held of rows: arrays of as many rows.
type Held = Vec<Array>;

/// What a step's plan says about rows of the pool, the same in every layer.
struct BoundStep {
    /// Blocks the pool must have.
    blocks: usize,
    /// For each copy the rows it reads and those it writes, u32.
    copies: Vec<[Array; 2]>,
    /// Row of each new token, u32 `[tokens, 1, 1]`.
    written: Array,
    spans: Vec<BoundSpan>,
}

struct BoundSpan {
    /// Its tokens in the step.
    rows: Range<usize>,
    start: usize,
    /// Rows of the pool of all its tokens, u32 `[start + rows.len()]`; absent where the step brings them all.
    held: Option<Array>,
}

impl GraphKv {
    /// Storage for a decoder of `layers` layers, grown as blocks are used up to `blocks` blocks; without a dtype rows
    /// are held as they come.
    pub(crate) fn new(layers: usize, blocks: usize, dtype: Option<KvDtype>) -> Self {
        Self { layers: vec![None; layers], encoding: Encoding(dtype), blocks, step: None }
    }

    /// The pool of a layer, with room for the step and its copies done.
    fn pool(&mut self, layer: usize, like: &[Held; 2], step: &BoundStep) -> Result<[Held; 2]> {
        let held = self.layers[layer].take();
        let mut sides = [Vec::new(), Vec::new()];
        for (at, side) in sides.iter_mut().enumerate() {
            for (part, like) in like[at].iter().enumerate() {
                let held = held.as_ref().map(|sides| sides[at][part].clone());
                side.push(copied(grown(held, like, step.blocks, self.blocks)?, step)?);
            }
        }
        Ok(sides)
    }
}

impl KvCache for GraphKv {
    fn begin(&mut self, step: &StepInputs) -> Result<()> {
        self.step = Some(BoundStep::new(&step.plan, self.blocks)?);
        Ok(())
    }

    fn attend(
        &mut self,
        layer: usize,
        rule: AttentionRule<'_>,
        [query, key, value]: [&Array; 3],
        _: &StepInputs,
    ) -> Result<Array> {
        let step = self.step.take().ok_or_else(|| defect("the step was not begun"))?;
        let (encoding, head_dim) = (self.encoding, rule.shape.head_dim);
        let new = [encoding.encode(key)?, encoding.encode(value)?];
        // Nothing else refers to the pool as it was when this is evaluated, so MLX writes in place.
        let mut pool = self.pool(layer, &new, &step)?;
        for (held, new) in pool.iter_mut().flatten().zip(new.iter().flatten()) {
            *held = put_rows(held, &step.written, new)?;
        }
        let mut mixed = Vec::with_capacity(step.spans.len());
        for span in &step.spans {
            let seen = |side: usize| {
                let parts = match &span.held {
                    Some(rows) => pool[side].iter().map(|held| held.take(rows, 0)).collect::<Result<Held>>(),
                    None => new[side].iter().map(|new| part(new, &span.rows)).collect(),
                };
                encoding.decode(&parts?, head_dim, query.dtype())
            };
            mixed.push(attend(&part(query, &span.rows)?, [&seen(0)?, &seen(1)?], span.start, rule)?);
        }
        self.layers[layer] = Some(pool);
        self.step = Some(step);
        match mixed.as_slice() {
            [one] => Ok(one.clone()),
            many => Array::concatenate(&many.iter().collect::<Vec<_>>(), 0),
        }
    }
}

impl BoundStep {
    fn new(plan: &StepPlan, most: usize) -> Result<Self> {
        let named = plan.spans.iter().flat_map(|span| span.blocks.iter());
        let copied = plan.copies.iter().flat_map(|copy| [&copy.from, &copy.to]);
        let blocks = named.chain(copied).map(|block| block.0 as usize + 1).max().unwrap_or(0);
        if blocks > most {
            return Err(defect(&format!("a step names block {}, the pool has {most}", blocks - 1)));
        }
        let copies = plan.copies.iter().map(|copy| {
            let rows = |block| indices((0..copy.tokens).map(|token| row(&[block], token)));
            let to = rows(copy.to)?;
            Ok([rows(copy.from)?, to.expand_dims(&[1, 2])?])
        });
        let written = plan.spans.iter().flat_map(|span| tokens(span).map(|token| row(&span.blocks, token)));
        let spans = plan.spans.iter().zip(plan.rows()).map(|(span, rows)| {
            let all = (0..tokens(span).end).map(|token| row(&span.blocks, token));
            let held = (span.start > 0).then(|| indices(all)).transpose()?;
            Ok(BoundSpan { rows, start: span.start, held })
        });
        if let Some(short) = plan.spans.iter().find(|s| s.blocks.len() * BLOCK_TOKENS < tokens(s).end) {
            return Err(defect(&format!("sequence {} has too few blocks", short.sequence.0)));
        }
        Ok(Self {
            blocks,
            copies: copies.collect::<Result<_>>()?,
            written: indices(written)?.expand_dims(&[1, 2])?,
            spans: spans.collect::<Result<_>>()?,
        })
    }
}

/// Positions of a span's tokens.
fn tokens(span: &Span) -> Range<usize> {
    span.start..span.start + span.tokens.len()
}

/// The row of the pool that holds a token.
fn row(blocks: &[BlockId], token: usize) -> u32 {
    let block = blocks.get(token / BLOCK_TOKENS).map_or(0, |block| block.0);
    block * BLOCK_TOKENS as u32 + (token % BLOCK_TOKENS) as u32
}

fn indices(rows: impl Iterator<Item = u32>) -> Result<Array> {
    let rows: Vec<u32> = rows.collect();
    Array::from_slice(&rows, &[length(rows.len())])
}

/// One side with room for `needed` blocks: at least doubled where it is too small, at most `most`.
fn grown(side: Option<Array>, like: &Array, needed: usize, most: usize) -> Result<Array> {
    let held = side.as_ref().map_or(0, |side| side.shape()[0] as usize / BLOCK_TOKENS);
    if let Some(side) = side.as_ref().filter(|_| needed <= held) {
        return Ok(side.clone());
    }
    let blocks = needed.max(2 * held).max(FIRST_BLOCKS).min(most.max(needed));
    let added = [length((blocks - held) * BLOCK_TOKENS), like.shape()[1], like.shape()[2]];
    let zeros = Array::zeros(&added, like.dtype())?;
    match &side {
        Some(side) => Array::concatenate(&[side, &zeros], 0),
        None => Ok(zeros),
    }
}

/// `side` after the copies of the step.
fn copied(mut side: Array, step: &BoundStep) -> Result<Array> {
    for [from, to] in &step.copies {
        side = put_rows(&side, to, &side.take(from, 0)?)?;
    }
    Ok(side)
}

/// `side` with `new`, `[tokens, kv_heads, head_dim]`, at `rows`, `[tokens, 1, 1]`.
fn put_rows(side: &Array, rows: &Array, new: &Array) -> Result<Array> {
    side.put_along_axis(&rows.broadcast_to(new.shape())?, new, 0)
}

/// Attention of one sequence: queries `[rows, heads, head_dim]` over keys and values `[tokens, kv_heads, head_dim]`.
fn attend(
    query: &Array,
    [keys, values]: [&Array; 2],
    start: usize,
    rule: AttentionRule<'_>,
) -> Result<Array> {
    // [tokens, heads, head_dim] to [1, heads, tokens, head_dim].
    let head_major = |x: &Array| x.transpose(&[1, 0, 2])?.expand_dims(&[0]);
    let count = query.shape()[0] as usize;
    let [query, keys, values] = [head_major(query)?, head_major(keys)?, head_major(values)?];
    let mask = mask(rule.shape.window, start, count, keys.dtype())?;
    let out = match (rule.shape.soft_cap, rule.sinks) {
        (Some(cap), _) => capped([&query, &keys, &values], (start, count), cap, rule)?,
        (None, Some(sinks)) => {
            attention_with_sinks([&query, &keys, &values], rule.shape.scale, mask.as_ref(), sinks)?
        }
        (None, None) => {
            scaled_dot_product_attention(&query, &keys, &values, rule.shape.scale, mask.as_ref())?
        }
    };
    out.transpose(&[0, 2, 1, 3])?.squeeze(&[0])
}

/// Attention with capped scores, which MLX's kernel does not have, in parts.
fn capped(
    [query, keys, values]: [&Array; 3],
    (start, count): (usize, usize),
    cap: f32,
    rule: AttentionRule<'_>,
) -> Result<Array> {
    let (shape, dtype) = (rule.shape, query.dtype());
    let total = start + count;
    let grouped = [shape.kv_heads, shape.heads / shape.kv_heads, count, shape.head_dim].map(length);
    let query = query.reshape(&grouped)?;
    let side = |x: &Array| x.squeeze(&[0])?.expand_dims(&[1]);
    let scores = query.matmul(&side(keys)?.transpose(&[0, 1, 3, 2])?)?.astype(Dtype::Float32)?;
    let scores = scores.multiply_scalar(shape.scale / cap)?.tanh()?.multiply_scalar(cap)?;
    let seen = additive(shape.window, start, count)?;
    let mut scores = scores.add(&seen)?;
    if let Some(sinks) = rule.sinks {
        let column = [grouped[0], grouped[1], 1, 1];
        let sinks = sinks.astype(Dtype::Float32)?.reshape(&column)?;
        let sinks = sinks.broadcast_to(&[grouped[0], grouped[1], grouped[2], 1])?;
        scores = Array::concatenate(&[&scores, &sinks], 3)?;
    }
    let weights = scores.softmax(&[-1], true)?;
    let weights = weights.slice(&[0; 4], &[grouped[0], grouped[1], grouped[2], length(total)])?;
    let out = weights.astype(dtype)?.matmul(&side(values)?)?;
    out.reshape(&[1, length(shape.heads), length(count), length(shape.head_dim)])
}

/// Rows of `x`, `[tokens, heads, head_dim]`.
fn part(x: &Array, rows: &Range<usize>) -> Result<Array> {
    let shape = x.shape();
    if rows.len() == shape[0] as usize {
        return Ok(x.clone());
    }
    x.slice(&[length(rows.start), 0, 0], &[length(rows.end), shape[1], shape[2]])
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
    match window {
        Some(window) if window < start + count => {
            Ok(OwnedMask::Array(additive(Some(window), start, count)?.astype(dtype)?))
        }
        _ if count == 1 => Ok(OwnedMask::None),
        _ => Ok(OwnedMask::Causal),
    }
}

/// The same as numbers to add to scores, f32 `[count, start + count]`.
fn additive(window: Option<usize>, start: usize, count: usize) -> Result<Array> {
    let total = start + count;
    let row = |query: usize| {
        (0..total).map(move |key| {
            let seen = key <= query && window.is_none_or(|window| key + window > query);
            if seen { 0.0 } else { f32::NEG_INFINITY }
        })
    };
    let values: Vec<f32> = (start..total).flat_map(row).collect();
    Array::from_slice(&values, &[length(count), length(total)])
}

/// A caller broke the cache's contract.
fn defect(message: &str) -> Error {
    Error { op: "attend", kind: ErrorKind::Argument, operands: String::new(), message: message.to_owned() }
}

/// Blocks of a pool when it is first used.
const FIRST_BLOCKS: usize = 16;
