//! KV storage in MLX arrays, attended by MLX's own fused attention.
//!
//! Arrays a layer and side, `[rows, kv_heads, _]` in which block `b` is the rows from `b * BLOCK_TOKENS` on: token
//! by token, so that a sequence's blocks are put together by one gather of rows. Attention runs over that contiguous form,
//! sequence by sequence, because MLX's kernel reads no block tables. Works on every device in any float dtype; it is
//! what Metal runs, and the slow twin of the CPU kernel. How rows are held is `encoding`'s: where they are codes, what was
//! gathered is dequantised, and new rows are attended to as they will be read later.

use std::ops::Range;

use mlxcel_kernels::KvDtype;
use mlxcel_mlx_bridge::{Array, Result, eval};

use super::contiguous::attend;
use super::encoding::Encoding;
use super::rows::{blocks_of, copies_of, defect, grown, indices, part, put_rows, row, tokens};
use super::{AttentionRule, KvCache, PutLayer, images};
use crate::blocks::BlockId;
use crate::decoder::StepInputs;
use crate::schedule::StepPlan;
use crate::transfer::{BlockSource, Tap};

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

    fn tap(&mut self, taps: Vec<Tap>) -> Vec<Tap> {
        taps
    }

    fn give(&mut self, tap: &Tap) -> Result<()> {
        self.layers.iter().enumerate().try_for_each(|(layer, sides)| match sides {
            Some([keys, values]) => images::give(layer, [keys, values], tap),
            None => Err(defect("nothing was ever written to a layer whose blocks are given")),
        })
    }

    fn put(
        &mut self,
        layer: &PutLayer<'_>,
        blocks: &[(usize, BlockId)],
        source: &dyn BlockSource,
    ) -> Result<()> {
        let rows = images::Rows::read(layer, (blocks, self.blocks), source)?;
        let held = &mut self.layers[layer.number];
        if let Some([keys, values]) = held {
            rows.check([keys, values])?;
        }
        let [keys, values] = held.take().map_or([None, None], |sides| sides.map(Some));
        let [keys, values] = held.insert([rows.put(0, keys)?, rows.put(1, values)?]);
        eval(&keys.iter().chain(values.iter()).collect::<Vec<_>>())
    }
}

impl BoundStep {
    fn new(plan: &StepPlan, most: usize) -> Result<Self> {
        let blocks = blocks_of(plan, most)?;
        let written = plan.spans.iter().flat_map(|span| tokens(span).map(|token| row(&span.blocks, token)));
        let spans = plan.spans.iter().zip(plan.rows()).map(|(span, rows)| {
            let all = (0..tokens(span).end).map(|token| row(&span.blocks, token));
            let held = (span.start > 0).then(|| indices(all)).transpose()?;
            Ok(BoundSpan { rows, start: span.start, held })
        });
        Ok(Self {
            blocks,
            copies: copies_of(plan)?,
            written: indices(written)?.expand_dims(&[1, 2])?,
            spans: spans.collect::<Result<_>>()?,
        })
    }
}

/// `side` after the copies of the step.
fn copied(mut side: Array, step: &BoundStep) -> Result<Array> {
    for [from, to] in &step.copies {
        side = put_rows(&side, to, &side.take(from, 0)?)?;
    }
    Ok(side)
}
