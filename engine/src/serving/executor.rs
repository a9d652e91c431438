//! Who computes the steps that an engine plans: the device of this process, or a replica of several ranks.

use mlxcel_mlx_bridge::{Array, Error, Result};

use crate::blocks::BlockId;
use crate::decoder::{Drawn, Execution, Model, SampledTokens, StepOutput};
use crate::kv::PutLayer;
use crate::sampling::Draw;
use crate::schedule::StepPlan;
use crate::state::MixerCache;
use crate::transfer::{BlockSource, Tap};

/// Computes steps, in the order they are given. Lives on the engine's thread.
pub(crate) trait StepExecutor {
    /// Logits `[rows, vocabulary]` of a step, of which nothing is evaluated yet; where no span is sampled, an array
    /// whose evaluation completes the step. Awaited tokens are those of `previous`.
    ///
    /// # Errors
    /// When the step cannot be begun.
    fn forward(&mut self, plan: StepPlan, previous: Option<&SampledTokens>) -> Result<StepOutput>;

    /// Tokens drawn on the device from logits `[rows, vocabulary]`, of which nothing is evaluated yet; nothing where it
    /// cannot.
    ///
    /// # Errors
    /// When they cannot be launched.
    fn draw(&self, logits: &Array, draws: &[Draw]) -> Result<Option<Drawn>>;

    /// How its arrays are computed.
    fn execution(&self) -> Execution;

    /// Bytes of KV cache that a block takes on this device, in all its layers.
    fn kv_block_bytes(&self) -> u64;

    /// As [`KvCache::tap`]; an executor that gives no blocks away is never asked to.
    fn tap(&mut self, taps: Vec<Tap>) -> Vec<Tap> {
        taps
    }

    /// As [`KvCache::give`].
    fn give(&mut self, _: &Tap) -> Result<()> {
        Err(Error::argument("give", "this executor gives no blocks away"))
    }

    /// As [`KvCache::put`].
    fn put(&mut self, _: &PutLayer<'_>, _: &[(usize, BlockId)], _: &dyn BlockSource) -> Result<()> {
        Err(Error::argument("put", "this executor takes no blocks over"))
    }

    /// Stages that work at a time, each on a step of its own.
    fn stages(&self) -> usize {
        1
    }

    /// Whether a step may await tokens of the one before.
    fn chains(&self) -> bool {
        true
    }

    /// Why no step can be computed any more: a rank was lost.
    fn failure(&self) -> Option<String> {
        None
    }
}

/// A whole model on this process's device.
pub(super) struct Local {
    model: Model,
    cache: MixerCache,
}

impl Local {
    /// With a KV cache of `blocks` blocks.
    pub(super) fn new(model: Model, blocks: usize) -> Self {
        let cache = model.cache(blocks);
        Self { model, cache }
    }
}

impl StepExecutor for Local {
    fn forward(&mut self, plan: StepPlan, previous: Option<&SampledTokens>) -> Result<StepOutput> {
        self.model.forward(plan, previous, &mut self.cache)
    }

    fn draw(&self, logits: &Array, draws: &[Draw]) -> Result<Option<Drawn>> {
        self.model.draw(logits, draws)
    }

    fn execution(&self) -> Execution {
        self.model.execution
    }

    fn kv_block_bytes(&self) -> u64 {
        self.model.kv_block_bytes()
    }

    fn tap(&mut self, taps: Vec<Tap>) -> Vec<Tap> {
        self.cache.kv.tap(taps)
    }

    fn give(&mut self, tap: &Tap) -> Result<()> {
        self.cache.kv.give(tap)
    }

    fn put(
        &mut self,
        layer: &PutLayer<'_>,
        blocks: &[(usize, BlockId)],
        source: &dyn BlockSource,
    ) -> Result<()> {
        self.cache.kv.put(layer, blocks, source)
    }
}
