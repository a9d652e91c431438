//! One rank of a replica: its part of a model, and its part of each step.
//!
//! Runs the plans it is given, in order; who makes them and how hidden states travel between stages is not known here
//! (`replica`). Ranks of a stage meet in the graph (`ranks`). Arrays never leave the thread that made them: a rank lives on one.

use std::path::Path;

use mlxcel_kernels::KvDtype;
use mlxcel_mlx_bridge::{Array, Dtype, Result};

use crate::api::{LoadStep, Quantization};
use crate::decoder::{Drawn, Execution, Model, Part, Place, StepOutput};
use crate::described::described;
use crate::device::Device;
use crate::ranks::Ranks;
use crate::sampling::Draw;
use crate::schedule::StepPlan;
use crate::serving::LoadError;
use crate::state::MixerCache;

/// How a rank is loaded.
#[derive(Debug, Clone)]
pub(crate) struct RankOptions {
    /// Its place in the replica.
    pub(crate) place: Place,
    /// Quantise float matrices to this.
    pub(crate) quantize: Option<Quantization>,
    /// How keys and values are stored; as they are computed without one.
    pub(crate) kv_dtype: Option<KvDtype>,
    /// Blocks of its KV cache: as many as those of every other rank.
    pub(crate) blocks: usize,
}

/// A rank, ready to run steps.
pub(crate) struct Rank {
    model: Model,
    cache: MixerCache,
}

impl Rank {
    /// Loads the part of the model in `path` that belongs to the rank, and reads nothing else of it. `ranks` reaches
    /// the other ranks of its stage, where there are any.
    ///
    /// # Errors
    /// As of [`load`](crate::load); and when the model cannot be divided so.
    pub(crate) fn load(
        path: &Path,
        device: &Device,
        options: &RankOptions,
        ranks: Option<Box<dyn Ranks>>,
        progress: &mut dyn FnMut(LoadStep),
    ) -> std::result::Result<Self, LoadError> {
        device.make_default()?;
        let (checkpoint, description) = described(path)?;
        let part = Part { whole: description, place: options.place.clone(), ranks };
        let execution = device.execution();
        let model = Model::load_part(part, &checkpoint, execution, options.quantize, progress)?;
        let model = model.with_kv_dtype(options.kv_dtype);
        let cache = model.cache(options.blocks);
        Ok(Self { model, cache })
    }

    /// The dtype of hidden states.
    pub(crate) fn dtype(&self) -> Dtype {
        self.model.dtype
    }

    /// Width of hidden states.
    pub(crate) fn hidden_size(&self) -> usize {
        self.model.description.hidden_size
    }

    /// Tokens drawn on its device from `logits`, `[rows, vocabulary]`; nothing where it cannot.
    ///
    /// # Errors
    /// When MLX refuses.
    pub(crate) fn draw(&self, logits: &Array, draws: &[Draw]) -> Result<Option<Drawn>> {
        self.model.draw(logits, draws)
    }

    /// How its arrays are computed.
    pub(crate) fn execution(&self) -> Execution {
        self.model.execution
    }

    /// Bytes of the weights it holds.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.model.weights.bytes()
    }

    /// Bytes that a block of its KV cache takes.
    pub(crate) fn kv_block_bytes(&self) -> u64 {
        self.model.kv_block_bytes()
    }

    /// Its part of a step, not evaluated. Ranks of the first stage take the tokens from the plan, later ones `hidden`,
    /// `[tokens, width]`, from the stage before.
    ///
    /// # Errors
    /// When MLX refuses. That another rank was lost surfaces where the result is evaluated.
    pub(crate) fn forward(&mut self, plan: StepPlan, hidden: Option<Array>) -> Result<StepOutput> {
        match hidden {
            None => self.model.forward(plan, None, &mut self.cache),
            Some(hidden) => {
                let hidden = hidden.astype(self.model.dtype)?;
                self.model.forward_hidden(plan, hidden, &mut self.cache)
            }
        }
    }
}
