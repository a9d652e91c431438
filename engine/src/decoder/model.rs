//! The forward pass, written once over the description.
//!
//! Takes a ragged step and returns logits for the rows that want them. Decides nothing about
//! which tokens to compute (`schedule`), how (`Arithmetic`), or where keys and values live (`KvCache`).

use mlxcel_kernels::KvDtype;
use mlxcel_mlx_bridge::{Array, Dtype, Result};

use super::arithmetic::Arithmetic;
use super::description::Decoder;
use super::inputs::{SampledTokens, StepInputs};
use super::residual::Residual;
use super::weights::DecoderWeights;
use crate::kv::KvCache;
use crate::schedule::StepPlan;

/// A decoder with its weights and its way to compute.
pub(crate) struct Model {
    pub(crate) description: Decoder,
    pub(crate) weights: DecoderWeights,
    pub(crate) arithmetic: Box<dyn Arithmetic>,
    pub(crate) execution: super::build::Execution,
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
        cache: &mut dyn KvCache,
    ) -> Result<StepOutput> {
        let step = StepInputs::new(plan, previous)?;
        cache.begin(&step)?;
        let mut residual = Residual::new(self.arithmetic.embed(&step.ids, &self.weights.embedding)?);
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let [query, key, value] = self.arithmetic.attention_inputs(&mut residual, layer, &step)?;
            let mixed = cache.attend(index, layer.attention.rule(), [&query, &key, &value], &step)?;
            self.arithmetic.finish_layer(&mut residual, &mixed, layer)?;
        }
        let rows = step.plan.sampled_rows();
        if rows.is_empty() {
            return Ok(StepOutput::Computed(residual.computed()));
        }
        let mut residual = residual.select(&rows, step.len)?;
        let normed = self.arithmetic.advance(&mut residual, &self.weights.final_norm)?;
        let logits = match &self.weights.head {
            Some(head) => self.arithmetic.linear(&normed, head),
            None => self.arithmetic.matrix(&normed, &self.weights.embedding),
        };
        logits.map(StepOutput::Logits)
    }
}

/// What a step leaves to evaluate.
pub(crate) enum StepOutput {
    /// `[sampled spans, vocabulary]`.
    Logits(Array),
    /// Nothing is sampled; evaluating this completes the step.
    Computed(Array),
}
