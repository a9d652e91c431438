//! A decoder as data: what a family file produces and everything else consumes.
//!
//! Forward, caches, quantisation and sharding are written once over this description. It holds names, sizes and
//! choices, never tensors; `families` decides what it says of a whole model, `portion` what of a rank's part.

use std::ops::Range;

/// A decoder-only transformer, or a rank's part of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoder {
    /// `model_type` of the configuration.
    pub family: String,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the hidden state.
    pub hidden_size: usize,
    /// Longest sequence the model was trained for, in tokens.
    pub max_context: usize,
    /// Token embedding `[vocab_size, hidden_size]`; absent after the first stage.
    pub embedding: Option<Linear>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// What makes logits of the last hidden state; absent before the last stage.
    pub output: Option<Output>,
}

/// What makes logits of the last hidden state.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Norm before the output head.
    pub norm: Norm,
    /// Output head `[vocab_size, hidden_size]`.
    pub head: Linear,
    /// The head's matrix is that of the embedding, and held once where both are.
    pub tied: bool,
}

/// One decoder layer, pre-norm: `x += mixer(norm(x)); x += feed_forward(norm(x))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Norm before the mixer.
    pub mixer_norm: Norm,
    /// The sequence mixer.
    pub mixer: Mixer,
    /// Norm before the feed-forward block.
    pub feed_forward_norm: Norm,
    /// The feed-forward block.
    pub feed_forward: FeedForward,
}

/// What moves information between positions of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Mixer {
    /// Softmax attention over a KV cache.
    Attention(Attention),
    /// A gated convolution over the last few positions.
    ShortConv(ShortConv),
}

impl Mixer {
    /// What it is, where it is attention.
    #[must_use]
    pub const fn attention(&self) -> Option<&Attention> {
        match self {
            Self::Attention(attention) => Some(attention),
            Self::ShortConv(_) => None,
        }
    }

    /// What it is, where it is a convolution.
    #[must_use]
    pub const fn short_conv(&self) -> Option<&ShortConv> {
        match self {
            Self::ShortConv(conv) => Some(conv),
            Self::Attention(_) => None,
        }
    }

    /// Its linear layers: those that read the hidden state, then the one that makes what is added to it.
    #[must_use]
    pub const fn linears(&self) -> [&Linear; 4] {
        match self {
            Self::Attention(it) => [&it.query, &it.key, &it.value, &it.output],
            Self::ShortConv(it) => [&it.input_gate, &it.output_gate, &it.value, &it.output],
        }
    }
}

/// `output(output_gate(x) * conv(input_gate(x) * value(x)))`: each channel is convolved by itself with its own kernel over
/// the last `taps` positions. The state of a sequence is what was last convolved, `[taps - 1, channels]` (LFM2).
#[derive(Debug, Clone, PartialEq)]
pub struct ShortConv {
    /// Channels.
    pub channels: usize,
    /// Positions that a channel sees, its own included.
    pub taps: usize,
    /// `[channels, hidden]`.
    pub input_gate: Linear,
    /// `[channels, hidden]`.
    pub output_gate: Linear,
    /// `[channels, hidden]`.
    pub value: Linear,
    /// `[hidden, channels]`.
    pub output: Linear,
    /// Module path of the kernels: `name.weight` is `[channels, taps, 1]` or `[channels, 1, taps]`, which are the same bytes.
    pub kernel: String,
    /// Whether `name.bias`, `[channels]`, is added.
    pub bias: bool,
    /// Which channels of how many a rank's part has; all where there is none.
    pub share: Option<(Range<usize>, usize)>,
}

/// Grouped-query attention with rotary positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Multiplies the scores, usually `head_dim^-0.5`.
    pub scale: f32,
    /// `[heads * head_dim, hidden]`.
    pub query: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub key: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub value: Linear,
    /// `[hidden, heads * head_dim]`.
    pub output: Linear,
    /// RMS norm over each query head (Qwen 3).
    pub query_norm: Option<Norm>,
    /// RMS norm over each key head (Qwen 3).
    pub key_norm: Option<Norm>,
    /// Rotary embedding.
    pub rope: Rope,
    /// A token sees at most this many latest tokens, itself included.
    pub window: Option<usize>,
    /// Scores become `c * tanh(score / c)` before they are masked.
    pub soft_cap: Option<f32>,
    /// Tensor of one learned logit for each query head that joins the denominator of its softmax, `[heads]`.
    pub sinks: Option<String>,
    /// Which query heads of how many a rank's part has; all where there is none.
    pub share: Option<(Range<usize>, usize)>,
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Leading dimensions of a head that are rotated.
    pub dims: usize,
    /// Rotates neighbours (2i, 2i+1) instead of halves (i, i + dims/2).
    pub traditional: bool,
    /// Rotation of pair i by one position, in radians: `[dims / 2]`.
    pub inverse_frequencies: Vec<f32>,
    /// Multiplies the rotated vector (YaRN); 1 otherwise.
    pub magnitude: f32,
}

/// A position-wise feed-forward block.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedForward {
    /// `down(activation(gate(x)) * up(x))`.
    Gated {
        /// `[intermediate, hidden]`.
        gate: Linear,
        /// `[intermediate, hidden]`.
        up: Linear,
        /// `[hidden, intermediate]`.
        down: Linear,
        /// Applied to the gate.
        activation: Activation,
    },
}

/// A pointwise non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
}

/// `x W^T (+ b)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Module path, such as `model.layers.0.self_attn.q_proj`; tensors are `name.weight`,
    /// `name.bias`, and for quantised modules `name.scales` and `name.biases`.
    pub name: String,
    /// Width of the input.
    pub inputs: usize,
    /// Width of the output.
    pub outputs: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// How ranks share it.
    pub cut: Cut,
    /// What a rank holds of it; all where there is none.
    pub share: Option<Share>,
}

/// The part of a matrix `[outputs, inputs]` that a rank holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Output features.
    pub outputs: Range<usize>,
    /// Input features.
    pub inputs: Range<usize>,
    /// Outputs and inputs of the whole.
    pub whole: [usize; 2],
}

/// How a weight is divided between tensor-parallel ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// By output features in whole heads of this width.
    Heads(usize),
    /// By output features.
    Column,
    /// By input features; partial results are summed.
    Row,
    /// By input features in whole heads of this width; partial results are summed.
    RowHeads(usize),
    /// By rows of the vocabulary.
    Vocabulary,
    /// Every rank holds it all.
    Replicated,
}

/// A normalisation with a learned scale.
#[derive(Debug, Clone, PartialEq)]
pub enum Norm {
    /// `x / sqrt(mean(x^2) + epsilon) * weight`.
    Rms {
        /// Module path; the tensor is `name.weight`.
        name: String,
        /// Added to the mean square.
        epsilon: f32,
    },
}
