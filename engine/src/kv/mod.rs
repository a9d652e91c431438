//! Keys and values of every sequence in flight.
//!
//! A pool of blocks for each layer and side; which sequence uses which block is said by the plan of each step
//! (`blocks` keeps the books, the scheduler decides). One interface, `KvCache`: attention that writes and reads the
//! pool. In host memory for our CPU kernels (`HostKv`), in MLX arrays for our CUDA kernel (`CudaKv`) and for everything
//! else (`GraphKv`); in the first and the last as floats, or as small numbers with scales.

mod contiguous;
mod cuda;
mod encoding;
mod graph;
mod host;
mod images;
mod rows;
#[cfg(test)]
mod twins;
mod work;

pub(crate) use cuda::CudaKv;
pub(crate) use graph::GraphKv;
pub(crate) use host::HostKv;

use mlxcel_mlx_bridge::{Array, Result};

use crate::blocks::BlockId;
use crate::decoder::{Attention, StepInputs};
use crate::transfer::{BlockSource, CacheLayout, LayerHeads, Tap};

/// The KV cache of one rank.
///
/// Steps are evaluated in the order they were built, on one stream: what a step writes is there for the next, and a
/// block given to another sequence is not written before all earlier steps have read it.
pub(crate) trait KvCache {
    /// Prepares for a step. Called once for each, before its first layer.
    ///
    /// # Errors
    /// When the step names a block the pool does not have, or MLX refuses.
    fn begin(&mut self, step: &StepInputs) -> Result<()>;

    /// Does the step's copies in `layer`, writes its keys and values, `[tokens, kv_heads, head_dim]`, to the blocks of
    /// its spans, and attends with its queries, `[tokens, heads, head_dim]`: `[tokens, heads, head_dim]`.
    ///
    /// # Errors
    /// When shapes disagree with `rule`, or a span's blocks have no room for its tokens.
    fn attend(
        &mut self,
        layer: usize,
        rule: AttentionRule<'_>,
        query_key_value: [&Array; 3],
        step: &StepInputs,
    ) -> Result<Array>;

    /// Has the step that is begun next give blocks to the sinks of `taps`, layer by layer, as it writes them. Where
    /// that cannot be done on the way, the taps come back, to be given when the step is done.
    fn tap(&mut self, taps: Vec<Tap>) -> Vec<Tap>;

    /// Gives a tap's blocks, all layers, as they are after the last step that was built.
    ///
    /// # Errors
    /// When the pool has no such block, or MLX refuses.
    fn give(&mut self, tap: &Tap) -> Result<()>;

    /// Takes a layer's images of `blocks`, given by their numbers in the prompt and in the pool, from `source`. No step
    /// under way uses these blocks.
    ///
    /// # Errors
    /// As [`give`](Self::give).
    fn put(
        &mut self,
        layer: &PutLayer<'_>,
        blocks: &[(usize, BlockId)],
        source: &dyn BlockSource,
    ) -> Result<()>;
}

/// A layer whose blocks are put.
pub(crate) struct PutLayer<'a> {
    pub(crate) number: usize,
    pub(crate) heads: &'a LayerHeads,
    /// Which the cache is described by.
    pub(crate) layout: &'a CacheLayout,
}

/// What attention computes in one layer.
#[derive(Clone, Copy)]
pub(crate) struct AttentionRule<'a> {
    pub(crate) shape: &'a Attention,
    /// `[heads]`, where `shape` names them.
    pub(crate) sinks: Option<&'a Array>,
}
