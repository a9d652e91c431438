//! KV storage in GPU memory, attended by our CUDA kernel over block tables.
//!
//! Arrays a layer and side as `GraphKv` has them, `[rows, kv_heads, head_dim]`, in the model's own dtype. Sequences that
//! bring few tokens are attended to in one launch, which writes their keys and values too; of those that bring many, the
//! rows are written, gathered, and attended to by MLX, whose kernel is made for many queries.
//!
//! The kernels write to the pool in place, behind MLX's back: no operation of MLX reads the rows that a launch
//! writes, except through what the launch returns. Each returns a zero, `done`, that the next one takes, so that they
//! run in the order they were built; where MLX reads rows, the zero is added to their numbers, and before it copies any, all
//! launches so far have run.

use std::ops::Range;
use std::rc::Rc;

use mlxcel_mlx_bridge::{Array, Error, Result};

use super::contiguous;
use super::rows::{blocks_of, copies_of, defect, grown, indices, part, put_rows, row, tokens};
use super::work::{SpanAt, Work, WorkShape};
use super::{AttentionRule, KvCache, PutLayer, images};
use crate::blocks::BlockId;
use crate::decoder::cuda_attention::{self as kernel, Items, PoolArrays};
use crate::decoder::{CudaKernels, StepInputs, length};
use crate::schedule::{Span, StepPlan};
use crate::transfer::{BlockSource, Tap};

/// Tokens of a sequence up to which the kernel attends.
const FEW_TOKENS: usize = 16;

/// The KV cache of engines on NVIDIA GPUs.
pub(crate) struct CudaKv {
    kernels: Rc<CudaKernels>,
    layers: Vec<Option<Pool>>,
    /// Blocks the pool may grow to.
    blocks: usize,
    step: Option<BoundStep>,
}

/// Keys and values of one layer.
struct Pool {
    sides: [Array; 2],
    /// A zero, u32 `[1]`, that is there when all launches so far are done.
    done: Array,
}

/// What a step's plan says, the same in every layer.
struct BoundStep {
    /// Blocks the pool must have.
    blocks: usize,
    copies: Vec<[Array; 2]>,
    /// Work on the spans of few tokens, for each shape of layer met so far.
    work: Vec<(WorkShape, BoundWork)>,
    pieces: Vec<Piece>,
    chunks: Option<Chunks>,
}

struct BoundWork {
    plan: Array,
    items: usize,
    rows: usize,
    parts: bool,
}

/// A part of the output, in the order of its rows.
enum Piece {
    /// These rows of the kernel's.
    Few(Range<usize>),
    /// What MLX makes of one span.
    Chunk { rows: Range<usize>, start: usize, held: Option<Array> },
}

/// Rows that the step's longer spans bring.
struct Chunks {
    /// Their rows in the step, u32; absent where they are all of it.
    rows: Option<Array>,
    /// Their rows in the pool, i32.
    slots: Array,
}

impl CudaKv {
    /// Storage for a decoder of `layers` layers, grown as blocks are used up to `blocks` blocks.
    pub(crate) fn new(kernels: Rc<CudaKernels>, layers: usize, blocks: usize) -> Self {
        Self { kernels, layers: (0..layers).map(|_| None).collect(), blocks, step: None }
    }

    /// The pool of a layer, with room for the step and its copies done.
    fn pool(&mut self, layer: usize, like: [&Array; 2], step: &BoundStep) -> Result<Pool> {
        let pool = match self.layers[layer].take() {
            Some(pool) => pool.with_room(like, step.blocks, self.blocks)?,
            None => Pool::new(like, step.blocks, self.blocks)?,
        };
        pool.copied(&step.copies)
    }
}

impl Pool {
    fn new([key, value]: [&Array; 2], blocks: usize, most: usize) -> Result<Self> {
        let side = |like| grown(None, like, blocks, most);
        Ok(Self { sides: [side(key)?, side(value)?], done: Array::from_slice(&[0u32], &[1])? })
    }

    fn with_room(self, [key, value]: [&Array; 2], blocks: usize, most: usize) -> Result<Self> {
        let [keys, values] = self.sides;
        if blocks * crate::blocks::BLOCK_TOKENS > keys.shape()[0] as usize {
            // What MLX copies now, all launches so far must have written.
            mlxcel_mlx_bridge::eval(&[&self.done])?;
        }
        let sides = [grown(Some(keys), key, blocks, most)?, grown(Some(values), value, blocks, most)?];
        Ok(Self { sides, done: self.done })
    }

    fn copied(mut self, copies: &[[Array; 2]]) -> Result<Self> {
        if !copies.is_empty() {
            // MLX copies a whole side first where a launch that has not run yet holds it, and nothing but the side itself
            // orders that copy: it would miss what the launch writes.
            mlxcel_mlx_bridge::eval(&[&self.done])?;
        }
        for [from, to] in copies {
            for side in &mut self.sides {
                *side = put_rows(side, to, &side.take(from, 0)?)?;
            }
        }
        Ok(self)
    }

    fn arrays(&self) -> PoolArrays<'_> {
        PoolArrays { sides: self.sides.each_ref(), after: &self.done }
    }
}

impl KvCache for CudaKv {
    fn begin(&mut self, step: &StepInputs) -> Result<()> {
        self.step = Some(BoundStep::new(&step.plan, self.blocks)?);
        Ok(())
    }

    fn attend(
        &mut self,
        layer: usize,
        rule: AttentionRule<'_>,
        [query, key, value]: [&Array; 3],
        inputs: &StepInputs,
    ) -> Result<Array> {
        if !kernel::can_attend(rule.shape, query.dtype()) {
            return Err(Error::argument("attend", format!("no kernel attends to {}", query.dtype())));
        }
        let mut step = self.step.take().ok_or_else(|| defect("the step was not begun"))?;
        let mut pool = self.pool(layer, [key, value], &step)?;
        if let Some(chunks) = &step.chunks {
            let rows = |x: &Array| chunks.rows.as_ref().map_or(Ok(x.clone()), |rows| x.take(rows, 0));
            let (key, value) = (rows(key)?, rows(value)?);
            pool.done = kernel::put_rows(&self.kernels, [&key, &value], &chunks.slots, pool.arrays())?;
        }
        let chunks_done = pool.done.clone();
        let few = match step.work(&inputs.plan, rule)? {
            Some(work) => {
                let [out, done] =
                    kernel::attend(&self.kernels, rule, [query, key, value], pool.arrays(), work.items())?;
                pool.done = done;
                Some(out)
            }
            None => None,
        };
        let made = step.pieces.iter().map(|piece| match (piece, &few) {
            (Piece::Few(rows), Some(out)) => part(out, rows),
            (Piece::Few(_), None) => Err(defect("rows of a launch that was not made")),
            (Piece::Chunk { rows, start, held }, _) => {
                let seen = |side: usize| match held {
                    Some(held) => pool.sides[side].take(&held.add(&chunks_done)?, 0),
                    None => part([key, value][side], rows),
                };
                contiguous::attend(&part(query, rows)?, [&seen(0)?, &seen(1)?], *start, rule)
            }
        });
        let made = made.collect::<Result<Vec<Array>>>()?;
        self.layers[layer] = Some(pool);
        self.step = Some(step);
        match made.as_slice() {
            [one] => Ok(one.clone()),
            many => Array::concatenate(&many.iter().collect::<Vec<_>>(), 0),
        }
    }

    fn tap(&mut self, taps: Vec<Tap>) -> Vec<Tap> {
        taps
    }

    fn give(&mut self, tap: &Tap) -> Result<()> {
        self.layers.iter().enumerate().try_for_each(|(layer, pool)| {
            let pool = pool
                .as_ref()
                .ok_or_else(|| defect("no launch ever wrote to a layer whose blocks are given"))?;
            // What MLX reads now, all launches so far must have written.
            mlxcel_mlx_bridge::eval(&[&pool.done])?;
            let [keys, values] = &pool.sides;
            images::give(layer, [std::slice::from_ref(keys), std::slice::from_ref(values)], tap)
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
        if let Some(Pool { sides: [keys, values], done }) = held {
            rows.check([std::slice::from_ref(keys), std::slice::from_ref(values)])?;
            // As before copies: MLX may copy a side that a launch has yet to write. Now, since what fails must leave the pool
            // where it is.
            mlxcel_mlx_bridge::eval(&[done])?;
        }
        let (keys, values, done) = match held.take() {
            Some(Pool { sides: [keys, values], done }) => (Some(vec![keys]), Some(vec![values]), done),
            None => (None, None, Array::from_slice(&[0u32], &[1])?),
        };
        let one = |mut side: Vec<Array>| side.pop().ok_or_else(|| defect("a side was put without an array"));
        let sides = [one(rows.put(0, keys)?)?, one(rows.put(1, values)?)?];
        let Pool { sides: [keys, values], .. } = held.insert(Pool { sides, done });
        mlxcel_mlx_bridge::eval(&[keys, values])
    }
}

impl BoundStep {
    fn new(plan: &StepPlan, most: usize) -> Result<Self> {
        let blocks = blocks_of(plan, most)?;
        let chunks = Chunks::new(plan)?;
        Ok(Self { blocks, copies: copies_of(plan)?, work: Vec::new(), pieces: pieces(plan)?, chunks })
    }

    /// Work on the step's spans of few tokens, where it has any.
    fn work(&mut self, plan: &StepPlan, rule: AttentionRule<'_>) -> Result<Option<&BoundWork>> {
        let shape = WorkShape {
            kv_heads: rule.shape.kv_heads,
            group: rule.shape.heads / rule.shape.kv_heads,
            window: rule.shape.window,
        };
        let known = self.work.iter().position(|(of, _)| *of == shape);
        let at = match known {
            Some(at) => at,
            None => {
                let rows = plan.rows();
                let spans = plan.spans.iter().zip(&rows).map(|(span, rows)| (span, rows.start));
                let few: Vec<SpanAt<'_>> = spans.filter(|(span, _)| is_few(span)).collect();
                if few.is_empty() {
                    return Ok(None);
                }
                self.work.push((shape, BoundWork::new(&Work::new(&few, shape))?));
                self.work.len() - 1
            }
        };
        Ok(Some(&self.work[at].1))
    }
}

impl BoundWork {
    fn new(work: &Work) -> Result<Self> {
        let plan = Array::from_slice(&work.numbers, &[length(work.numbers.len())])?;
        Ok(Self { plan, items: work.items, rows: work.rows, parts: work.parts })
    }

    fn items(&self) -> Items<'_> {
        Items { plan: &self.plan, items: self.items, rows: self.rows, parts: self.parts }
    }
}

impl Chunks {
    fn new(plan: &StepPlan) -> Result<Option<Self>> {
        let all = || plan.spans.iter().zip(plan.rows()).filter(|(span, _)| !is_few(span));
        let slots: Vec<i32> =
            all().flat_map(|(span, _)| tokens(span).map(|token| row(&span.blocks, token) as i32)).collect();
        if slots.is_empty() {
            return Ok(None);
        }
        let rows = all().flat_map(|(_, rows)| rows).map(|row| row as u32);
        let rows = (slots.len() < plan.len()).then(|| indices(rows)).transpose()?;
        Ok(Some(Self { rows, slots: Array::from_slice(&slots, &[length(slots.len())])? }))
    }
}

/// The parts of the output; neighbouring rows of the kernel's are one.
fn pieces(plan: &StepPlan) -> Result<Vec<Piece>> {
    let (mut pieces, mut few) = (Vec::new(), 0);
    for (span, rows) in plan.spans.iter().zip(plan.rows()) {
        if is_few(span) {
            let end = few + rows.len();
            match pieces.last_mut() {
                Some(Piece::Few(before)) => before.end = end,
                _ => pieces.push(Piece::Few(few..end)),
            }
            few = end;
        } else {
            let all = (0..tokens(span).end).map(|token| row(&span.blocks, token));
            let held = (span.start > 0).then(|| indices(all)).transpose()?;
            pieces.push(Piece::Chunk { rows, start: span.start, held });
        }
    }
    Ok(pieces)
}

fn is_few(span: &Span) -> bool {
    span.tokens.len() <= FEW_TOKENS
}
