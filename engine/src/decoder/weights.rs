//! The weights of a decoder as arrays, named by its description.
//!
//! Reads each tensor a description names from a checkpoint, checks shape and dtype, quantises
//! where asked, and reports progress. Does not compute with them; `Model` does.

use mlxcel_mlx_bridge::{Array, Quantized};

use super::cuda::TiledMatrix;
use super::description::{Attention, Decoder, FeedForward, Layer, Linear, Mixer, Norm, Rope};
use super::source::{WeightError, WeightSource};
use crate::kv::AttentionRule;

/// A matrix `[outputs, inputs]`, quantised or not.
#[derive(Clone)]
pub(crate) enum MatrixWeights {
    /// Float weights.
    Dense(Array),
    /// Affine groups in MLX's layout.
    Affine(Quantized),
    /// Affine groups in the layout of our CUDA kernels.
    Tiled(TiledMatrix),
}

impl MatrixWeights {
    pub(crate) fn arrays(&self) -> Vec<&Array> {
        match self {
            Self::Dense(weight) => vec![weight],
            Self::Affine(matrix) => {
                [&matrix.weight, &matrix.scales].into_iter().chain(&matrix.biases).collect()
            }
            Self::Tiled(matrix) => matrix.arrays().to_vec(),
        }
    }
}

/// A linear layer.
pub(crate) struct LinearWeights {
    pub(crate) matrix: MatrixWeights,
    /// `[outputs]`.
    pub(crate) bias: Option<Array>,
}

/// A norm's scale and epsilon.
pub(crate) struct NormWeights {
    /// `[width]`.
    pub(crate) weight: Array,
    pub(crate) epsilon: f32,
}

/// A rotary embedding, ready for either arithmetic.
pub(crate) struct RopeWeights {
    pub(crate) rope: std::sync::Arc<Rope>,
    /// Periods `1 / inverse_frequency`, `[dims / 2]`, as MLX's own operation wants them.
    pub(crate) periods: Array,
}

/// One attention block.
pub(crate) struct AttentionWeights {
    pub(crate) shape: Attention,
    pub(crate) query: LinearWeights,
    pub(crate) key: LinearWeights,
    pub(crate) value: LinearWeights,
    pub(crate) output: LinearWeights,
    pub(crate) query_norm: Option<NormWeights>,
    pub(crate) key_norm: Option<NormWeights>,
    /// `[heads]`.
    pub(crate) sinks: Option<Array>,
    pub(crate) rope: RopeWeights,
}

/// One decoder layer.
pub(crate) struct LayerWeights {
    pub(crate) mixer_norm: NormWeights,
    pub(crate) attention: AttentionWeights,
    pub(crate) feed_forward_norm: NormWeights,
    pub(crate) gate: LinearWeights,
    pub(crate) up: LinearWeights,
    pub(crate) down: LinearWeights,
    pub(crate) activation: super::description::Activation,
}

/// Every weight of a decoder.
pub(crate) struct DecoderWeights {
    pub(crate) embedding: MatrixWeights,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) final_norm: NormWeights,
    /// Absent when tied to the embedding.
    pub(crate) head: Option<LinearWeights>,
}

impl DecoderWeights {
    /// Reads every weight that `decoder` names.
    pub(crate) fn load(decoder: &Decoder, source: &mut WeightSource<'_>) -> Result<Self, WeightError> {
        let table = Linear {
            name: decoder.embedding.name.clone(),
            inputs: decoder.hidden_size,
            outputs: decoder.vocab_size,
            bias: false,
            cut: super::description::Cut::Vocabulary,
        };
        Ok(Self {
            embedding: source.matrix(&table)?,
            layers: decoder.layers.iter().map(|layer| load_layer(layer, source)).collect::<Result<_, _>>()?,
            final_norm: load_norm(&decoder.final_norm, decoder.hidden_size, source)?,
            head: decoder.head.as_ref().map(|head| load_linear(head, source)).transpose()?,
        })
    }
}

impl AttentionWeights {
    /// What a KV cache needs to know of this block.
    pub(crate) fn rule(&self) -> AttentionRule<'_> {
        AttentionRule { shape: &self.shape, sinks: self.sinks.as_ref() }
    }
}

impl DecoderWeights {
    /// Bytes of every array.
    pub(crate) fn bytes(&self) -> u64 {
        self.arrays().iter().map(|array| array.nbytes() as u64).sum()
    }

    /// Every array, for evaluation before the first request.
    pub(crate) fn arrays(&self) -> Vec<&Array> {
        let mut all = self.embedding.arrays();
        all.push(&self.final_norm.weight);
        for layer in &self.layers {
            let attention = &layer.attention;
            all.push(&layer.mixer_norm.weight);
            all.push(&layer.feed_forward_norm.weight);
            all.extend(attention.query_norm.iter().chain(&attention.key_norm).map(|norm| &norm.weight));
            all.extend(&attention.sinks);
            let linears = [&attention.query, &attention.key, &attention.value, &attention.output];
            for linear in linears.into_iter().chain([&layer.gate, &layer.up, &layer.down]) {
                all.extend(linear.arrays());
            }
        }
        all.extend(self.head.iter().flat_map(LinearWeights::arrays));
        all
    }
}

impl LinearWeights {
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.matrix.arrays().into_iter().chain(&self.bias)
    }
}

fn load_layer(layer: &Layer, source: &mut WeightSource<'_>) -> Result<LayerWeights, WeightError> {
    let Mixer::Attention(attention) = &layer.mixer;
    let FeedForward::Gated { gate, up, down, activation } = &layer.feed_forward;
    Ok(LayerWeights {
        mixer_norm: load_norm(&layer.mixer_norm, attention.query.inputs, source)?,
        attention: load_attention(attention, source)?,
        feed_forward_norm: load_norm(&layer.feed_forward_norm, gate.inputs, source)?,
        gate: load_linear(gate, source)?,
        up: load_linear(up, source)?,
        down: load_linear(down, source)?,
        activation: *activation,
    })
}

fn load_attention(shape: &Attention, source: &mut WeightSource<'_>) -> Result<AttentionWeights, WeightError> {
    let mut head_norm =
        |norm: &Option<Norm>| norm.as_ref().map(|norm| load_norm(norm, shape.head_dim, source)).transpose();
    let (query_norm, key_norm) = (head_norm(&shape.query_norm)?, head_norm(&shape.key_norm)?);
    let sinks = shape.sinks.as_ref().map(|name| source.vector(name, shape.heads)).transpose()?;
    Ok(AttentionWeights {
        query: load_linear(&shape.query, source)?,
        key: load_linear(&shape.key, source)?,
        value: load_linear(&shape.value, source)?,
        output: load_linear(&shape.output, source)?,
        query_norm,
        key_norm,
        sinks,
        rope: load_rope(&shape.rope)?,
        shape: shape.clone(),
    })
}

fn load_linear(linear: &Linear, source: &mut WeightSource<'_>) -> Result<LinearWeights, WeightError> {
    let matrix = source.matrix(linear)?;
    let bias = if linear.bias {
        Some(source.vector(&format!("{}.bias", linear.name), linear.outputs)?)
    } else {
        None
    };
    Ok(LinearWeights { matrix, bias })
}

fn load_norm(norm: &Norm, width: usize, source: &mut WeightSource<'_>) -> Result<NormWeights, WeightError> {
    let Norm::Rms { name, epsilon } = norm;
    let weight = source.vector(&format!("{name}.weight"), width)?;
    Ok(NormWeights { weight, epsilon: *epsilon })
}

fn load_rope(rope: &Rope) -> Result<RopeWeights, WeightError> {
    let periods: Vec<f32> = rope.inverse_frequencies.iter().map(|f| 1.0 / f).collect();
    let periods = Array::from_slice(&periods, &[super::arithmetic::length(periods.len())])?;
    Ok(RopeWeights { rope: std::sync::Arc::new(rope.clone()), periods })
}
