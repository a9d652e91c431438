//! One rank of a replica: its part of a model, and its part of each step.
//!
//! Runs the plans it is given, in order; who makes them and how hidden states travel between stages is not known here.
//! Ranks of a stage meet in the graph (`ranks`). Arrays never leave the thread that made them: a rank lives on one.

use std::path::Path;

use mlxcel_kernels::KvDtype;
use mlxcel_mlx_bridge::{Array, Dtype, Result, async_eval};

use crate::api::{LoadStep, Quantization};
use crate::checkpoint::Checkpoint;
use crate::decoder::{Model, Part, Place, StepOutput, length};
use crate::device::Device;
use crate::families;
use crate::kv::KvCache;
use crate::ranks::Ranks;
use crate::schedule::StepPlan;
use crate::serving::LoadError;

/// How a rank is loaded.
#[derive(Debug, Clone)]
pub struct RankOptions {
    /// Its place in the replica.
    pub place: Place,
    /// Quantise float matrices to this.
    pub quantize: Option<Quantization>,
    /// How keys and values are stored; as they are computed without one.
    pub kv_dtype: Option<KvDtype>,
    /// Blocks of its KV cache: as many as those of every other rank.
    pub blocks: usize,
}

/// A rank, ready to run steps.
pub struct Rank {
    model: Model,
    cache: Box<dyn KvCache>,
}

/// What a rank has made of a step. Its evaluation is under way.
pub enum RankOutput {
    /// `[tokens, width]`, for the next stage.
    Hidden(Array),
    /// Logits `[sampled spans, vocabulary]`, the same on every rank of the last stage.
    Logits(Array),
    /// Nothing is sampled: evaluating this completes the step.
    Computed(Array),
}

impl Rank {
    /// Loads the part of the model in `path` that belongs to the rank, and reads nothing else of it. `ranks` reaches
    /// the other ranks of its stage, where there are any.
    ///
    /// # Errors
    /// As of [`load`](crate::load); and when the model cannot be divided so.
    pub fn load(
        path: &Path,
        device: &Device,
        options: &RankOptions,
        ranks: Option<Box<dyn Ranks>>,
        progress: &mut dyn FnMut(LoadStep),
    ) -> std::result::Result<Self, LoadError> {
        device.make_default()?;
        let mut checkpoint = Checkpoint::open(path)?;
        let family = |reason| LoadError::Family { path: path.to_owned(), reason };
        let description = families::describe(checkpoint.config()).map_err(family)?;
        checkpoint.rename(&families::weight_name);
        let part = Part { whole: description, place: options.place.clone(), ranks };
        let execution = device.execution();
        let model = Model::load_part(part, &checkpoint, execution, options.quantize, progress)?;
        let model = model.with_kv_dtype(options.kv_dtype);
        let cache = model.cache(options.blocks);
        Ok(Self { model, cache })
    }

    /// The dtype of hidden states.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.model.dtype
    }

    /// Tokens of the vocabulary.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.model.description.vocab_size
    }

    /// Bytes of the weights it holds.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.model.weights.bytes()
    }

    /// Begins its part of a step. Ranks of the first stage take the tokens from the plan, later ones `hidden`,
    /// `[tokens, width]`, from the stage before.
    ///
    /// # Errors
    /// When MLX refuses. That another rank was lost surfaces where the result is evaluated.
    pub fn step(&mut self, plan: StepPlan, hidden: Option<Array>) -> Result<RankOutput> {
        let output = match hidden {
            None => self.model.forward(plan, None, self.cache.as_mut())?,
            Some(hidden) => {
                let hidden = hidden.astype(self.model.dtype)?;
                self.model.forward_hidden(plan, hidden, self.cache.as_mut())?
            }
        };
        let (StepOutput::Logits(array) | StepOutput::Computed(array) | StepOutput::Hidden(array)) = &output;
        async_eval(&[array])?;
        Ok(match output {
            StepOutput::Logits(logits) => RankOutput::Logits(logits),
            StepOutput::Computed(done) => RankOutput::Computed(done),
            StepOutput::Hidden(hidden) => RankOutput::Hidden(hidden),
        })
    }

    /// A hidden state that has come from another stage as bytes of this rank's dtype.
    ///
    /// # Errors
    /// When the bytes are not those of `tokens` rows.
    pub fn hidden(&self, bytes: &[u8], tokens: usize) -> Result<Array> {
        let width = self.model.description.hidden_size;
        Array::from_bytes(bytes, self.model.dtype, &[length(tokens), length(width)])
    }
}
