//! The pre-norm transformer that every family here is a variation of.
//!
//! Builds attention, the gated feed-forward block and their names from the keys all these
//! families share. What differs between families arrives as a `Variant`.

use super::config::Config;
use super::error::FamilyError;
use super::rope::rope;
use crate::decoder::{
    Activation, Attention, Cut, Decoder, FeedForward, Layer, Linear, Mixer, Norm, Output, Rope,
};

/// Deepest model accepted: a bound against nonsense, far above any real one.
const MAX_LAYERS: usize = 4096;

/// What a family decides.
pub(super) struct Variant {
    /// Query, key and value projections have biases.
    pub(super) qkv_bias: bool,
    /// The output projection has a bias.
    pub(super) output_bias: bool,
    /// The feed-forward projections have biases.
    pub(super) mlp_bias: bool,
    /// Query and key heads are normalised.
    pub(super) head_norms: bool,
    /// `rope_theta` when the configuration has none.
    pub(super) default_rope_theta: f64,
    /// `max_position_embeddings` when the configuration has none.
    pub(super) default_context: usize,
    /// `tie_word_embeddings` when the configuration has none.
    pub(super) default_tied: bool,
    /// Whether layer `i` has a sliding window when the configuration has no `layer_types`.
    pub(super) slides: Slides,
}

/// Which layers slide when `layer_types` does not say.
#[derive(Clone, Copy)]
pub(super) enum Slides {
    /// None.
    Never,
    /// Every layer.
    Always,
    /// This layer and all after it.
    From(usize),
}

/// Sizes that all layers share.
pub(super) struct Shape {
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) epsilon: f32,
}

/// The decoder that `config` and the family's `variant` describe.
pub(super) fn decoder(config: Config<'_>, family: &str, variant: &Variant) -> Result<Decoder, FamilyError> {
    let shape = shape(config)?;
    let layers = layers(config)?;
    let vocab_size = config.count("vocab_size")?;
    let rope = rope(config, shape.head_dim, variant.default_rope_theta)?;
    let windows = windows(config, layers, variant.slides)?;
    let table = |name: &str| Linear {
        name: name.into(),
        inputs: shape.hidden,
        outputs: vocab_size,
        bias: false,
        cut: Cut::Vocabulary,
        share: None,
    };
    let tied = config.flag("tie_word_embeddings", variant.default_tied)?;
    Ok(Decoder {
        family: family.to_owned(),
        vocab_size,
        hidden_size: shape.hidden,
        max_context: config.optional_count("max_position_embeddings")?.unwrap_or(variant.default_context),
        embedding: Some(table("model.embed_tokens")),
        layers: windows
            .into_iter()
            .enumerate()
            .map(|(index, window)| layer(&shape, &format!("model.layers.{index}"), variant, &rope, window))
            .collect(),
        output: Some(Output {
            norm: Norm::Rms { name: "model.norm".into(), epsilon: shape.epsilon },
            head: table(if tied { "model.embed_tokens" } else { "lm_head" }),
            tied,
        }),
    })
}

/// How many layers there are.
pub(super) fn layers(config: Config<'_>) -> Result<usize, FamilyError> {
    let layers = config.count("num_hidden_layers")?;
    if layers > MAX_LAYERS {
        return Err(config.wrong("num_hidden_layers", "at most 4096"));
    }
    Ok(layers)
}

fn shape(config: Config<'_>) -> Result<Shape, FamilyError> {
    if !matches!(config.text("hidden_act")?, None | Some("silu" | "swish")) {
        return Err(config.unsupported("hidden_act", "silu"));
    }
    let hidden = config.count("hidden_size")?;
    let heads = config.count("num_attention_heads")?;
    let kv_heads = config.optional_count("num_key_value_heads")?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        return Err(config.wrong("num_key_value_heads", &format!("a divisor of num_attention_heads {heads}")));
    }
    let head_dim = match config.optional_count("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden % heads == 0 => hidden / heads,
        None => {
            return Err(config.wrong("num_attention_heads", &format!("a divisor of hidden_size {hidden}")));
        }
    };
    Ok(Shape {
        hidden,
        intermediate: config.count("intermediate_size")?,
        heads,
        kv_heads,
        head_dim,
        epsilon: config.number("rms_norm_eps")? as f32,
    })
}

/// The sliding window of every layer, in tokens.
fn windows(config: Config<'_>, layers: usize, slides: Slides) -> Result<Vec<Option<usize>>, FamilyError> {
    let Some(types) = config.get("layer_types") else {
        let window = config.optional_count("sliding_window")?;
        let slides = |index| match slides {
            Slides::Never => false,
            Slides::Always => true,
            Slides::From(first) => index >= first,
        };
        return Ok((0..layers).map(|index| window.filter(|_| slides(index))).collect());
    };
    let types = types.as_array().filter(|types| types.len() == layers);
    let types =
        types.ok_or_else(|| config.wrong("layer_types", &format!("a list of {layers} layer types")))?;
    types
        .iter()
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") => Ok(Some(config.count("sliding_window")?)),
            _ => Err(FamilyError::Unsupported {
                key: "layer_types".into(),
                found: kind.as_str().map_or_else(|| kind.to_string(), str::to_owned),
                supported: "full_attention, sliding_attention".into(),
            }),
        })
        .collect()
}

fn layer(shape: &Shape, path: &str, variant: &Variant, rope: &Rope, window: Option<usize>) -> Layer {
    let norm = |name: &str| Norm::Rms { name: format!("{path}.{name}"), epsilon: shape.epsilon };
    Layer {
        mixer_norm: norm("input_layernorm"),
        mixer: Mixer::Attention(attention(shape, &format!("{path}.self_attn"), variant, rope, window)),
        feed_forward_norm: norm("post_attention_layernorm"),
        feed_forward: gated(shape, &format!("{path}.mlp"), MLP, variant.mlp_bias),
    }
}

/// Grouped-query attention under the usual names.
pub(super) fn attention(
    shape: &Shape,
    path: &str,
    variant: &Variant,
    rope: &Rope,
    window: Option<usize>,
) -> Attention {
    let width = shape.heads * shape.head_dim;
    let project = |name: &str, heads: usize| Linear {
        name: format!("{path}.{name}"),
        inputs: shape.hidden,
        outputs: heads * shape.head_dim,
        bias: variant.qkv_bias,
        cut: Cut::Heads(shape.head_dim),
        share: None,
    };
    let norm = |name: &str| {
        let norm = Norm::Rms { name: format!("{path}.{name}"), epsilon: shape.epsilon };
        variant.head_norms.then_some(norm)
    };
    Attention {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        scale: (shape.head_dim as f32).powf(-0.5),
        query: project("q_proj", shape.heads),
        key: project("k_proj", shape.kv_heads),
        value: project("v_proj", shape.kv_heads),
        output: Linear {
            name: format!("{path}.o_proj"),
            inputs: width,
            outputs: shape.hidden,
            bias: variant.output_bias,
            cut: Cut::RowHeads(shape.head_dim),
            share: None,
        },
        query_norm: norm("q_norm"),
        key_norm: norm("k_norm"),
        rope: rope.clone(),
        window,
        soft_cap: None,
        sinks: None,
        share: None,
    }
}

/// The usual names of gate, up and down.
const MLP: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// A gated feed-forward block; `names` are those of gate, up and down.
pub(super) fn gated(shape: &Shape, path: &str, names: [&str; 3], bias: bool) -> FeedForward {
    let [gate, up, down] = names;
    let linear = |name: &str, inputs, outputs, cut| Linear {
        name: format!("{path}.{name}"),
        inputs,
        outputs,
        bias,
        cut,
        share: None,
    };
    FeedForward::Gated {
        gate: linear(gate, shape.hidden, shape.intermediate, Cut::Column),
        up: linear(up, shape.hidden, shape.intermediate, Cut::Column),
        down: linear(down, shape.intermediate, shape.hidden, Cut::Row),
        activation: Activation::Silu,
    }
}
