//! The forward pass, written once over the description.
//!
//! Takes a ragged step and returns logits for the rows that want them. Decides nothing about
//! which tokens to compute (`schedule`), how (`Arithmetic`), or where keys and values live (`KvCache`).

use std::rc::Rc;

use mlxcel_kernels::KvDtype;
use mlxcel_mlx_bridge::{Array, Dtype, Error, Result};

use super::arithmetic::Arithmetic;
use super::cuda::{self, Drawn, Kernels as CudaKernels};
use super::description::Decoder;
use super::inputs::{SampledTokens, StepInputs};
use super::residual::Residual;
use super::weights::DecoderWeights;
use super::weights::MixerWeights;
use crate::sampling::Draw;
use crate::schedule::StepPlan;
use crate::state::MixerCache;

/// A decoder with its weights and its way to compute.
pub(crate) struct Model {
    pub(crate) description: Decoder,
    pub(crate) weights: DecoderWeights,
    pub(crate) arithmetic: Box<dyn Arithmetic>,
    pub(crate) execution: super::build::Execution,
    /// Present where `execution` is our CUDA kernels.
    pub(crate) kernels: Option<Rc<CudaKernels>>,
    /// The dtype of activations, and of the KV cache unless `kv_dtype` says otherwise.
    pub(crate) dtype: Dtype,
    pub(crate) kv_dtype: Option<KvDtype>,
}

impl Model {
    /// Logits `[sampled spans, vocabulary]` of a step; where no span is sampled, an array whose
    /// evaluation completes the step. Awaited tokens are those of `previous`.
    pub(crate) fn forward(
        &self,
        plan: StepPlan,
        previous: Option<&SampledTokens>,
        cache: &mut MixerCache,
    ) -> Result<StepOutput> {
        let step = StepInputs::new(plan, previous)?;
        let table = self.weights.embedding.as_ref().ok_or_else(|| not_here("the embedding"))?;
        let hidden = self.arithmetic.embed(&step.ids, table)?;
        self.run(&step, hidden, cache)
    }

    /// A later stage's part of a step: `hidden`, `[tokens, width]`, is what the stage before made of it. The ids of
    /// tokens mean nothing here.
    pub(crate) fn forward_hidden(
        &self,
        plan: StepPlan,
        hidden: Array,
        cache: &mut MixerCache,
    ) -> Result<StepOutput> {
        let step = StepInputs::without_ids(plan)?;
        self.run(&step, hidden, cache)
    }

    /// Tokens drawn on the device from `logits`, `[rows, vocabulary]`; nothing where it cannot.
    pub(crate) fn draw(&self, logits: &Array, draws: &[Draw]) -> Result<Option<Drawn>> {
        self.kernels.as_ref().map_or(Ok(None), |kernels| cuda::draw(kernels, logits, draws))
    }

    fn run(&self, step: &StepInputs, hidden: Array, cache: &mut MixerCache) -> Result<StepOutput> {
        cache.kv.begin(step)?;
        let mut residual = Residual::new(hidden);
        let (mut attended, mut convolved) = (0.., 0..);
        for layer in &self.weights.layers {
            let mixed = match &layer.mixer {
                MixerWeights::Attention(weights) => {
                    let inputs = self.arithmetic.attention_inputs(&mut residual, layer, weights, step)?;
                    let index = attended.next().unwrap_or_default();
                    cache.kv.attend(index, weights.rule(), inputs.each_ref(), step)?
                }
                MixerWeights::ShortConv(weights) => {
                    let inputs = self.arithmetic.short_conv_inputs(&mut residual, layer, weights)?;
                    let index = convolved.next().unwrap_or_default();
                    cache.states.convolve(index, weights, inputs.each_ref(), step)?
                }
            };
            self.arithmetic.finish_layer(&mut residual, &mixed, layer)?;
        }
        let Some(output) = &self.weights.output else {
            return residual.added().map(StepOutput::Hidden);
        };
        let rows = step.plan.sampled_rows();
        if rows.is_empty() {
            return Ok(StepOutput::Computed(residual.computed()));
        }
        let mut residual = residual.select(&rows, step.len)?;
        let normed = self.arithmetic.advance(&mut residual, &output.norm)?;
        self.arithmetic.logits(&normed, &output.head).map(StepOutput::Logits)
    }
}

/// What a step leaves to evaluate.
pub(crate) enum StepOutput {
    /// `[sampled spans, vocabulary]`.
    Logits(Array),
    /// Nothing is sampled; evaluating this completes the step.
    Computed(Array),
    /// `[tokens, width]`, for the next stage.
    Hidden(Array),
}

fn not_here(what: &str) -> Error {
    Error::argument("step", format!("{what} is held by another stage"))
}
