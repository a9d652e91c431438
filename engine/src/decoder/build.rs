//! A model from its description and checkpoint, for one device.
//!
//! On the CPU: our kernels, f32 activations, weights used where they lie. On NVIDIA GPUs: our kernels in the
//! model's own dtype, over weights laid out for them. Elsewhere: MLX graphs.

use std::rc::Rc;

use mlxcel_kernels::KvDtype;
use mlxcel_mlx_bridge::Dtype;

use super::arithmetic::Arithmetic;
use super::cuda::{CudaArithmetic, Kernels, attention};
use super::description::{Decoder, Linear, Norm};
use super::graph::GraphArithmetic;
use super::host::HostArithmetic;
use super::model::Model;
use super::portion::Place;
use super::sharded::ShardedArithmetic;
use super::source::{Preparation, WeightError, WeightSource, share_of};
use super::weights::DecoderWeights;
use crate::api::{LoadStep, Quantization};
use crate::blocks::BLOCK_TOKENS;
use crate::checkpoint::{Checkpoint, TensorDtype};
use crate::kv::{CudaKv, GraphKv, HostKv, KvCache};
use crate::ranks::Ranks;
use crate::state::{GraphStates, HostStates, MixerCache, StateCache, most_slots};

/// Which arithmetic and KV storage to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Execution {
    /// Our CPU kernels in f32.
    Host,
    /// MLX operations in the model's own dtype.
    Graph,
    /// Our CUDA kernels in the model's own dtype, MLX operations where they do not reach.
    Cuda,
}

/// A rank's part of a model: of which, where, and how it reaches the ranks of its stage; alone there without `ranks`.
pub(crate) struct Part {
    pub(crate) whole: Decoder,
    pub(crate) place: Place,
    pub(crate) ranks: Option<Box<dyn Ranks>>,
}

impl Model {
    /// Loads `description`'s weights from `checkpoint`.
    pub(crate) fn load(
        description: Decoder,
        checkpoint: &Checkpoint,
        execution: Execution,
        quantize: Option<Quantization>,
        progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Self, WeightError> {
        let part = Part { place: Place::alone(&description), whole: description, ranks: None };
        Self::load_part(part, checkpoint, execution, quantize, progress)
    }

    /// Loads a part of a model's weights, and nothing else, from `checkpoint`.
    pub(crate) fn load_part(
        part: Part,
        checkpoint: &Checkpoint,
        execution: Execution,
        quantize: Option<Quantization>,
        progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Self, WeightError> {
        let dtype = match execution {
            Execution::Host => Dtype::Float32,
            Execution::Graph | Execution::Cuda => activation_dtype(&part.whole, checkpoint),
        };
        let kernels = (execution == Execution::Cuda).then(|| Rc::new(Kernels::new()));
        let preparation = Preparation { quantize, vectors: dtype, tiles: kernels.clone() };
        let mut source = WeightSource::new(checkpoint, preparation, progress)?;
        let whole = part.whole;
        let description = whole.portion(&part.place, &|linear| source.grain(linear))?;
        source.expect_share(description.elements() as f64 / whole.elements() as f64);
        let weights = DecoderWeights::load(&description, &mut source)?;
        // Norms are converted and device copies made now, not in the first request.
        mlxcel_mlx_bridge::eval(&weights.arrays())?;
        if kernels.is_some() {
            // What was read from files lies in memory that host and device share: not for activations.
            mlxcel_mlx_bridge::memory::clear_cache()?;
        }
        let graph = GraphArithmetic { dtype };
        let arithmetic: Box<dyn Arithmetic> = match (execution, kernels.clone()) {
            (Execution::Host, _) => {
                Box::new(HostArithmetic { sum: part.ranks.as_ref().and_then(|ranks| ranks.sum_within()) })
            }
            (Execution::Cuda, Some(kernels)) => Box::new(CudaArithmetic { kernels, graph }),
            _ => Box::new(graph),
        };
        let arithmetic = match part.ranks {
            Some(ranks) => {
                let within = execution == Execution::Host && ranks.sum_within().is_some();
                let embedded = description.embedding.as_ref().map(|table| share_of(table).outputs);
                Box::new(ShardedArithmetic::new(
                    (arithmetic, within),
                    ranks,
                    embedded,
                    description.vocab_size,
                )?)
            }
            None => arithmetic,
        };
        Ok(Self { description, weights, arithmetic, execution, kernels, dtype, kv_dtype: None })
    }

    /// Stores keys and values as `dtype`; without one as they are computed.
    pub(crate) fn with_kv_dtype(self, kv_dtype: Option<KvDtype>) -> Self {
        Self { kv_dtype, ..self }
    }

    /// What the mixers of this model remember of sequences, in `blocks` blocks and the slots beside them.
    pub(crate) fn cache(&self, blocks: usize) -> MixerCache {
        MixerCache { kv: self.kv_cache(blocks), states: self.state_cache(blocks) }
    }

    fn state_cache(&self, blocks: usize) -> Box<dyn StateCache> {
        let convs = self.description.layers.iter().filter_map(|layer| layer.mixer.short_conv());
        match self.execution {
            Execution::Host => Box::new(HostStates::new(convs.count(), most_slots(blocks))),
            // On GPUs, too, for want of a kernel.
            Execution::Graph | Execution::Cuda => {
                Box::new(GraphStates::new(convs.count(), most_slots(blocks)))
            }
        }
    }

    /// Bytes that the states of a sequence take, in all layers.
    pub(crate) fn state_bytes(&self) -> u64 {
        state_bytes(&self.description, self.dtype.size())
    }

    fn kv_cache(&self, blocks: usize) -> Box<dyn KvCache> {
        let layers: Vec<_> =
            self.description.layers.iter().filter_map(|layer| layer.mixer.attention()).collect();
        if self.execution == Execution::Host {
            return Box::new(HostKv::new(layers.into_iter(), blocks, self.kv_dtype.unwrap_or(KvDtype::F32)));
        }
        // The kernel reads keys and values as they are computed.
        let kernel =
            self.kv_dtype.is_none() && layers.iter().all(|layer| attention::can_attend(layer, self.dtype));
        match self.kernels.as_ref().filter(|_| kernel) {
            Some(kernels) => Box::new(CudaKv::new(Rc::clone(kernels), layers.len(), blocks)),
            None => Box::new(GraphKv::new(layers.len(), blocks, self.kv_dtype)),
        }
    }

    /// Bytes of KV cache one block takes, in all layers.
    pub(crate) fn kv_block_bytes(&self) -> u64 {
        kv_bytes_per_token(&self.description, self.kv_dtype, self.dtype.size()) * BLOCK_TOKENS as u64
    }
}

/// Bytes of KV cache one token of one sequence takes in all layers: stored as `dtype`, or without one in values of
/// `value_bytes` bytes.
pub(crate) fn kv_bytes_per_token(decoder: &Decoder, dtype: Option<KvDtype>, value_bytes: usize) -> u64 {
    let row_bytes = |d: usize| dtype.map_or(d * value_bytes, |dtype| dtype.row_bytes(d));
    let attentions = decoder.layers.iter().filter_map(|layer| layer.mixer.attention());
    let per_layer = attentions.map(|attention| 2 * attention.kv_heads * row_bytes(attention.head_dim));
    per_layer.sum::<usize>() as u64
}

/// Bytes of state that a sequence has in all layers, in values of `value_bytes` bytes.
pub(crate) fn state_bytes(decoder: &Decoder, value_bytes: usize) -> u64 {
    let convs = decoder.layers.iter().filter_map(|layer| layer.mixer.short_conv());
    convs.map(|conv| (conv.taps - 1) * conv.channels * value_bytes).sum::<usize>() as u64
}

/// The dtype the model was stored in: that of its embedding, of the embedding's scales, or of a norm where those are
/// codes of powers.
fn activation_dtype(description: &Decoder, checkpoint: &Checkpoint) -> Dtype {
    let tables = description.embedding.iter().chain(description.output.iter().map(|output| &output.head));
    // A stage in the middle has neither: its first projection was stored as they were.
    let projections = description.layers.iter().map(|layer| layer.mixer.linears()[0]);
    let Some(Linear { name, .. }) = tables.chain(projections).next() else { return Dtype::Float32 };
    let norms = description.layers.iter().map(|layer| {
        let Norm::Rms { name, .. } = &layer.mixer_norm;
        format!("{name}.weight")
    });
    let names = ["scales", "weight"].map(|part| format!("{name}.{part}")).into_iter().chain(norms);
    let mut dtypes = names.filter_map(|name| checkpoint.info(&name)).map(|info| info.dtype);
    match dtypes.find(|dtype| dtype.is_weight_float()) {
        Some(TensorDtype::BF16) => Dtype::Bfloat16,
        Some(TensorDtype::F16) => Dtype::Float16,
        _ => Dtype::Float32,
    }
}
