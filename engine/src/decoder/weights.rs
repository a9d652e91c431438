//! The weights of a decoder as arrays, named by its description.
//!
//! Reads each tensor a description names from a checkpoint, checks shape and dtype, quantises
//! where asked, and reports progress. Does not compute with them; `Model` does.

use mlxcel_mlx_bridge::{Array, Dtype, Quantized};

use super::cuda::TiledMatrix;
use super::description::{
    Attention, Decoder, FeedForward, Layer, Linear, Mixer, Norm, Output, Rope, ShortConv,
};
use super::source::{WeightError, WeightSource, share_of};
use crate::kv::AttentionRule;

/// A matrix `[outputs, inputs]`, quantised or not.
#[derive(Clone)]
pub(crate) enum MatrixWeights {
    /// Float weights.
    Dense(Array),
    /// Groups in MLX's layout.
    Quantized(Quantized),
    /// Affine groups in the layout of our CUDA kernels.
    Tiled(TiledMatrix),
}

impl MatrixWeights {
    pub(crate) fn arrays(&self) -> Vec<&Array> {
        match self {
            Self::Dense(weight) => vec![weight],
            Self::Quantized(matrix) => {
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

/// One short convolution.
pub(crate) struct ShortConvWeights {
    pub(crate) shape: ShortConv,
    pub(crate) input_gate: LinearWeights,
    pub(crate) output_gate: LinearWeights,
    pub(crate) value: LinearWeights,
    pub(crate) output: LinearWeights,
    /// F32 `[taps, channels]`, the oldest position first.
    pub(crate) kernel: Array,
    /// F32 `[channels]`.
    pub(crate) bias: Option<Array>,
}

/// The sequence mixer of a layer.
pub(crate) enum MixerWeights {
    Attention(AttentionWeights),
    ShortConv(ShortConvWeights),
}

impl MixerWeights {
    /// What makes of the mixer's result what is added to the hidden state.
    pub(crate) const fn output(&self) -> &LinearWeights {
        match self {
            Self::Attention(attention) => &attention.output,
            Self::ShortConv(conv) => &conv.output,
        }
    }

    /// Width of the mixer's result.
    pub(crate) const fn width(&self) -> usize {
        match self {
            Self::Attention(attention) => attention.shape.heads * attention.shape.head_dim,
            Self::ShortConv(conv) => conv.shape.channels,
        }
    }

    fn arrays(&self) -> Vec<&Array> {
        match self {
            Self::Attention(it) => {
                let norms = it.query_norm.iter().chain(&it.key_norm).map(|norm| &norm.weight);
                let linears = [&it.query, &it.key, &it.value, &it.output];
                norms.chain(&it.sinks).chain(linears.into_iter().flat_map(LinearWeights::arrays)).collect()
            }
            Self::ShortConv(it) => {
                let linears = [&it.input_gate, &it.output_gate, &it.value, &it.output];
                let linears = linears.into_iter().flat_map(LinearWeights::arrays);
                linears.chain([&it.kernel]).chain(&it.bias).collect()
            }
        }
    }
}

/// One decoder layer.
pub(crate) struct LayerWeights {
    pub(crate) mixer_norm: NormWeights,
    pub(crate) mixer: MixerWeights,
    pub(crate) feed_forward_norm: NormWeights,
    pub(crate) gate: LinearWeights,
    pub(crate) up: LinearWeights,
    pub(crate) down: LinearWeights,
    pub(crate) activation: super::description::Activation,
}

/// What makes logits of the last hidden state.
pub(crate) struct OutputWeights {
    pub(crate) norm: NormWeights,
    pub(crate) head: LinearWeights,
}

/// Every weight of a decoder, or of a rank's part of one.
pub(crate) struct DecoderWeights {
    /// Absent after the first stage.
    pub(crate) embedding: Option<MatrixWeights>,
    pub(crate) layers: Vec<LayerWeights>,
    /// Absent before the last stage.
    pub(crate) output: Option<OutputWeights>,
    /// The head is the embedding.
    tied: bool,
}

impl DecoderWeights {
    /// Reads every weight that `decoder` names.
    pub(crate) fn load(decoder: &Decoder, source: &mut WeightSource<'_>) -> Result<Self, WeightError> {
        let embedding = decoder.embedding.as_ref().map(|table| source.matrix(table)).transpose()?;
        let layers =
            decoder.layers.iter().map(|layer| load_layer(layer, source)).collect::<Result<_, _>>()?;
        let output = decoder.output.as_ref();
        let tied = output.is_some_and(|output| output.tied) && embedding.is_some();
        let output = output.map(|output| load_output(output, embedding.as_ref(), source)).transpose()?;
        Ok(Self { embedding, layers, output, tied })
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
        let mut all: Vec<&Array> = self.embedding.iter().flat_map(MatrixWeights::arrays).collect();
        all.extend(self.output.iter().map(|output| &output.norm.weight));
        for layer in &self.layers {
            all.push(&layer.mixer_norm.weight);
            all.push(&layer.feed_forward_norm.weight);
            all.extend(layer.mixer.arrays());
            for linear in [&layer.gate, &layer.up, &layer.down] {
                all.extend(linear.arrays());
            }
        }
        let head = self.output.iter().filter(|_| !self.tied);
        all.extend(head.flat_map(|output| output.head.arrays()));
        all
    }
}

impl LinearWeights {
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.matrix.arrays().into_iter().chain(&self.bias)
    }
}

fn load_output(
    output: &Output,
    embedding: Option<&MatrixWeights>,
    source: &mut WeightSource<'_>,
) -> Result<OutputWeights, WeightError> {
    let head = match embedding.filter(|_| output.tied) {
        Some(table) => LinearWeights { matrix: table.clone(), bias: None },
        None => load_linear(&output.head, source)?,
    };
    Ok(OutputWeights { norm: load_norm(&output.norm, output.head.inputs, source)?, head })
}

fn load_layer(layer: &Layer, source: &mut WeightSource<'_>) -> Result<LayerWeights, WeightError> {
    let FeedForward::Gated { gate, up, down, activation } = &layer.feed_forward;
    Ok(LayerWeights {
        mixer_norm: load_norm(&layer.mixer_norm, gate.inputs, source)?,
        mixer: match &layer.mixer {
            Mixer::Attention(attention) => MixerWeights::Attention(load_attention(attention, source)?),
            Mixer::ShortConv(conv) => MixerWeights::ShortConv(load_short_conv(conv, source)?),
        },
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
    let (heads, all_heads) = shape.share.clone().unwrap_or((0..shape.heads, shape.heads));
    let sinks = shape.sinks.as_ref().map(|name| source.vector_part(name, heads, all_heads)).transpose()?;
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

fn load_short_conv(
    shape: &ShortConv,
    source: &mut WeightSource<'_>,
) -> Result<ShortConvWeights, WeightError> {
    let (channels, all) = shape.share.clone().unwrap_or((0..shape.channels, shape.channels));
    let bias = format!("{}.bias", shape.kernel);
    let bias = shape.bias.then(|| source.vector_part(&bias, channels.clone(), all)).transpose()?;
    Ok(ShortConvWeights {
        input_gate: load_linear(&shape.input_gate, source)?,
        output_gate: load_linear(&shape.output_gate, source)?,
        value: load_linear(&shape.value, source)?,
        output: load_linear(&shape.output, source)?,
        kernel: source.kernels(&format!("{}.weight", shape.kernel), channels, [all, shape.taps])?,
        bias: bias.map(|bias| bias.astype(Dtype::Float32)).transpose()?,
        shape: shape.clone(),
    })
}

fn load_linear(linear: &Linear, source: &mut WeightSource<'_>) -> Result<LinearWeights, WeightError> {
    let matrix = source.matrix(linear)?;
    let bias = if linear.bias {
        let share = share_of(linear);
        Some(source.vector_part(&format!("{}.bias", linear.name), share.outputs, share.whole[0])?)
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
