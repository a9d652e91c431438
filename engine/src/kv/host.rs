//! KV storage in host memory, attended by our CPU kernel.
//!
//! One buffer a layer and side, laid out `[blocks, kv_heads, BLOCK_TOKENS, head_dim]` in the dtype the caller chooses.
//! Memory is taken by the system when a block is first written. Copies and writes happen inside the attention primitive, on the stream that
//! evaluates it, so that steps see each other's keys in the order they were built.

use std::sync::{Arc, Mutex, PoisonError};

use mlxcel_kernels::{KV_BLOCK_TOKENS, KvDtype, KvPool, KvShape, KvSide, KvSpan, SequenceKv, ShapeError};
use mlxcel_mlx_bridge::{Array, Dtype, HostInput, HostOutput, Result, host_op_single};

use super::rows::defect;
use super::{AttentionRule, KvCache, PutLayer};
use crate::blocks::{BLOCK_TOKENS, BlockId};
use crate::decoder::{Attention, StepInputs, length};
use crate::schedule::StepPlan;
use crate::transfer::{BlockSource, ImagePlace, Tap};

const _: () = assert!(KV_BLOCK_TOKENS == BLOCK_TOKENS, "the kernels read the blocks the scheduler gives out");

/// The KV cache of the CPU engine.
pub(crate) struct HostKv {
    layers: Vec<Arc<Mutex<LayerPool>>>,
    /// Of the step that is begun next, then of the step that is being built.
    taps: [Arc<[Tap]>; 2],
}

/// Keys and values of all blocks in one layer.
struct LayerPool {
    sides: [KvSide; 2],
}

impl HostKv {
    /// Storage of `blocks` blocks for a decoder with these layers.
    pub(crate) fn new<'a>(
        layers: impl Iterator<Item = &'a Attention>,
        blocks: usize,
        dtype: KvDtype,
    ) -> Self {
        let pool = |attention| Arc::new(Mutex::new(LayerPool::new(attention, blocks, dtype)));
        Self { layers: layers.map(pool).collect(), taps: Default::default() }
    }
}

impl KvCache for HostKv {
    fn begin(&mut self, _: &StepInputs) -> Result<()> {
        let [next, now] = &mut self.taps;
        *now = std::mem::take(next);
        Ok(())
    }

    fn attend(
        &mut self,
        layer: usize,
        rule: AttentionRule<'_>,
        [query, key, value]: [&Array; 3],
        step: &StepInputs,
    ) -> Result<Array> {
        let (pool, plan) = (Arc::clone(&self.layers[layer]), Arc::clone(&step.plan));
        let taps = match layer + 1 < self.layers.len() {
            true => Arc::clone(&self.taps[1]),
            // Nothing of a sink is kept here when its step has been built.
            false => std::mem::take(&mut self.taps[1]),
        };
        let attention = rule.shape.clone();
        let output = [length(step.len), length(attention.heads), length(attention.head_dim)];
        let inputs: Vec<&Array> = [query, key, value].into_iter().chain(rule.sinks).collect();
        let kernel = move |inputs: &[HostInput<'_>], output: &mut HostOutput<'_>| {
            let [query, key, value, sinks @ ..] = inputs else {
                return Err("attention takes q, k and v".to_owned());
            };
            // A poisoned lock means a kernel panicked; its step has failed, and its sequences with it.
            let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
            let sinks = sinks.first().map(HostInput::as_f32).transpose()?;
            let shape = attention_shape(&attention, sinks);
            pool.write(&plan, [key.as_f32()?, value.as_f32()?]).map_err(|error| error.to_string())?;
            // Before attention: what waits for the blocks elsewhere waits the longer of the two.
            let given = taps.iter().try_for_each(|tap| pool.give(layer, tap));
            given.map_err(|error| error.to_string())?;
            pool.attend(&plan, &shape, query.as_f32()?, output.as_f32_mut()?)
                .map_err(|error| error.to_string())
        };
        host_op_single("attention", &inputs, &output, Dtype::Float32, kernel)
    }

    fn tap(&mut self, taps: Vec<Tap>) -> Vec<Tap> {
        self.taps[0] = taps.into();
        Vec::new()
    }

    fn give(&mut self, tap: &Tap) -> Result<()> {
        self.layers.iter().enumerate().try_for_each(|(layer, pool)| {
            let pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
            pool.give(layer, tap).map_err(|error| defect(&error.to_string()))
        })
    }

    fn put(
        &mut self,
        layer: &PutLayer<'_>,
        blocks: &[(usize, BlockId)],
        source: &dyn BlockSource,
    ) -> Result<()> {
        let mut pool = self.layers[layer.number].lock().unwrap_or_else(PoisonError::into_inner);
        for (number, side) in pool.sides.iter_mut().enumerate() {
            for &(block, id) in blocks {
                let image = side.block_mut(id.0).map_err(|error| defect(&error.to_string()))?;
                source.read(ImagePlace { layer: layer.number, side: number, block }, image);
            }
        }
        Ok(())
    }
}

impl LayerPool {
    fn new(attention: &Attention, blocks: usize, dtype: KvDtype) -> Self {
        let shape = KvShape { blocks, kv_heads: attention.kv_heads, head_dim: attention.head_dim };
        Self { sides: [(); 2].map(|()| KvSide::new(shape, dtype)) }
    }

    /// Copies what the plan asks for, then writes the rows of every span, `[tokens, kv_heads, head_dim]`.
    fn write(&mut self, plan: &StepPlan, rows: [&[f32]; 2]) -> std::result::Result<(), ShapeError> {
        for (side, rows) in self.sides.iter_mut().zip(rows) {
            let width = side.shape().kv_heads * side.shape().head_dim;
            for copy in &plan.copies {
                side.copy([copy.from.0, copy.to.0])?;
            }
            for (span, at) in plan.spans.iter().zip(plan.rows()) {
                let to = KvSpan { blocks: numbers(&span.blocks), start: span.start };
                side.write(&rows[at.start * width..at.end * width], to)?;
            }
        }
        Ok(())
    }

    /// Gives a tap's blocks of this layer.
    fn give(&self, layer: usize, tap: &Tap) -> std::result::Result<(), ShapeError> {
        tap.give(layer, |side, block, take| {
            take(self.sides[side].block(block.0)?);
            Ok(())
        })
    }

    fn attend(
        &self,
        plan: &StepPlan,
        shape: &mlxcel_kernels::AttentionShape<'_>,
        query: &[f32],
        out: &mut [f32],
    ) -> std::result::Result<(), ShapeError> {
        let spans = plan.spans.iter().zip(plan.rows()).zip(plan.lengths());
        let sequences: Vec<SequenceKv<'_>> = spans
            .map(|((span, queries), length)| SequenceKv { queries, blocks: numbers(&span.blocks), length })
            .collect();
        let [keys, values] = &self.sides;
        let pool = KvPool { keys, values };
        mlxcel_kernels::attention(query, &pool, &sequences, shape, out)
    }
}

fn attention_shape<'a>(
    attention: &Attention,
    sinks: Option<&'a [f32]>,
) -> mlxcel_kernels::AttentionShape<'a> {
    mlxcel_kernels::AttentionShape {
        heads: attention.heads,
        kv_heads: attention.kv_heads,
        head_dim: attention.head_dim,
        scale: attention.scale,
        window: attention.window,
        soft_cap: attention.soft_cap,
        sinks,
    }
}

/// The blocks' numbers, as the kernels want them.
fn numbers(blocks: &[BlockId]) -> &[u32] {
    bytemuck::cast_slice(blocks)
}
