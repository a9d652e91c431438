//! LFM2 (Liquid AI): gated short convolutions, with grouped-query attention between them.
//!
//! Norms over query and key heads, biases where `conv_bias` says so, the head tied to the embedding, and names of its own.

use serde_json::Value;

use super::config::Config;
use super::error::FamilyError;
use super::rope::rope;
use super::transformer::{self, Shape, Slides, Variant};
use crate::decoder::{Attention, Cut, Decoder, Layer, Linear, Mixer, Norm, Output, Rope, Share, ShortConv};

/// Widest convolution accepted: a bound against nonsense, far above any real one.
const MOST_TAPS: usize = 256;

pub(super) fn describe(config: Config<'_>) -> Result<Decoder, FamilyError> {
    refuse_others(config)?;
    let (shape, vocab_size) = (shape(config)?, config.count("vocab_size")?);
    let rope = rope(config, shape.head_dim, 1e6)?;
    let conv = Convolution { taps: config.count("conv_L_cache")?, bias: config.flag("conv_bias", false)? };
    if !(2..=MOST_TAPS).contains(&conv.taps) {
        return Err(config.wrong("conv_L_cache", &format!("a whole number from 2 to {MOST_TAPS}")));
    }
    let layers =
        attends(config, transformer::layers(config)?)?.into_iter().enumerate().map(|(at, attends)| {
            let path = format!("model.layers.{at}");
            let mixer = match attends {
                true => Mixer::Attention(attention(&shape, &format!("{path}.self_attn"), &rope)),
                false => Mixer::ShortConv(short_conv(&shape, &format!("{path}.conv"), &conv)),
            };
            let norm = |name: &str| norm(&format!("{path}.{name}"), &shape);
            Layer {
                mixer_norm: norm("operator_norm"),
                mixer,
                feed_forward_norm: norm("ffn_norm"),
                feed_forward: transformer::gated(
                    &shape,
                    &format!("{path}.feed_forward"),
                    ["w1", "w3", "w2"],
                    false,
                ),
            }
        });
    let table = Linear {
        cut: Cut::Vocabulary,
        ..linear("model.embed_tokens".into(), shape.hidden, vocab_size, false)
    };
    Ok(Decoder {
        family: "lfm2".to_owned(),
        vocab_size,
        hidden_size: shape.hidden,
        max_context: config.optional_count("max_position_embeddings")?.unwrap_or(128_000),
        embedding: Some(table.clone()),
        layers: layers.collect(),
        output: Some(Output { norm: norm("model.embedding_norm", &shape), head: table, tied: true }),
    })
}

/// What the layers of a configuration could be and are not here.
fn refuse_others(config: Config<'_>) -> Result<(), FamilyError> {
    let hidden = config.count("hidden_size")?;
    for width in ["block_dim", "conv_dim", "conv_dim_out"] {
        if config.optional_count(width)?.is_some_and(|found| found != hidden) {
            return Err(config.unsupported(width, &format!("hidden_size {hidden}")));
        }
    }
    for tied in ["tie_word_embeddings", "tie_embedding"] {
        if !config.flag(tied, true)? {
            return Err(config.unsupported(tied, "true"));
        }
    }
    Ok(())
}

fn shape(config: Config<'_>) -> Result<Shape, FamilyError> {
    let (hidden, heads) = (config.count("hidden_size")?, config.count("num_attention_heads")?);
    let kv_heads = config.optional_count("num_key_value_heads")?.unwrap_or(heads);
    if hidden % heads != 0 {
        return Err(config.wrong("num_attention_heads", &format!("a divisor of hidden_size {hidden}")));
    }
    if heads % kv_heads != 0 {
        return Err(config.wrong("num_key_value_heads", &format!("a divisor of num_attention_heads {heads}")));
    }
    let epsilon = config.number("norm_eps")? as f32;
    Ok(Shape {
        hidden,
        intermediate: intermediate(config)?,
        heads,
        kv_heads,
        head_dim: hidden / heads,
        epsilon,
    })
}

/// Two thirds of what the configuration says, times a factor, rounded up, unless it says that it is meant as it is.
fn intermediate(config: Config<'_>) -> Result<usize, FamilyError> {
    let stated = match config.optional_count("block_ff_dim")? {
        Some(stated) => stated,
        None => config.count("intermediate_size")?,
    };
    if !config.flag("block_auto_adjust_ff_dim", true)? {
        return Ok(stated);
    }
    let factor = config.optional_number("block_ffn_dim_multiplier")?.unwrap_or(1.0);
    let multiple = config.optional_count("block_multiple_of")?.unwrap_or(256);
    let width = (2 * stated / 3) as f64 * factor;
    if width > stated as f64 * MOST_STRETCH {
        return Err(config.wrong("block_ffn_dim_multiplier", &format!("a factor of at most {MOST_STRETCH}")));
    }
    Ok((width as usize).next_multiple_of(multiple).max(multiple))
}

/// Which of the layers are attention.
fn attends(config: Config<'_>, layers: usize) -> Result<Vec<bool>, FamilyError> {
    if let Some(indices) = config.get("full_attn_idxs") {
        let known = |index: &Value| index.as_u64().filter(|index| *index < layers as u64);
        let indices: Option<Vec<u64>> = indices.as_array().and_then(|all| all.iter().map(known).collect());
        let refused = || config.wrong("full_attn_idxs", &format!("a list of layers below {layers}"));
        let indices = indices.ok_or_else(refused)?;
        return Ok((0..layers as u64).map(|layer| indices.contains(&layer)).collect());
    }
    let types = config.get("layer_types").ok_or_else(|| config.missing("layer_types"))?;
    let types = types.as_array().filter(|types| types.len() == layers);
    let types =
        types.ok_or_else(|| config.wrong("layer_types", &format!("a list of {layers} layer types")))?;
    let attends = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(true),
        Some("conv") => Ok(false),
        _ => Err(FamilyError::Unsupported {
            key: "layer_types".into(),
            found: kind.as_str().map_or_else(|| kind.to_string(), str::to_owned),
            supported: "conv, full_attention".into(),
        }),
    };
    types.iter().map(attends).collect()
}

fn attention(shape: &Shape, path: &str, rope: &Rope) -> Attention {
    let variant = Variant {
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        head_norms: false,
        default_rope_theta: 1e6,
        default_context: 128_000,
        default_tied: true,
        slides: Slides::Never,
    };
    let usual = transformer::attention(shape, path, &variant, rope, None);
    Attention {
        output: Linear { name: format!("{path}.out_proj"), ..usual.output.clone() },
        query_norm: Some(norm(&format!("{path}.q_layernorm"), shape)),
        key_norm: Some(norm(&format!("{path}.k_layernorm"), shape)),
        ..usual
    }
}

/// How much wider than stated a feed-forward block may be made.
const MOST_STRETCH: f64 = 64.0;

struct Convolution {
    taps: usize,
    bias: bool,
}

fn short_conv(shape: &Shape, path: &str, conv: &Convolution) -> ShortConv {
    let width = shape.hidden;
    // Three matrices, one below the other in one tensor.
    let part = |at: usize| {
        let rows = at * width..(at + 1) * width;
        let share = Some(Share { outputs: rows, inputs: 0..width, whole: [3 * width, width] });
        Linear { share, ..linear(format!("{path}.in_proj"), width, width, conv.bias) }
    };
    ShortConv {
        channels: width,
        taps: conv.taps,
        input_gate: part(0),
        output_gate: part(1),
        value: part(2),
        output: Linear { cut: Cut::Row, ..linear(format!("{path}.out_proj"), width, width, conv.bias) },
        kernel: format!("{path}.conv"),
        bias: conv.bias,
        share: None,
    }
}

fn linear(name: String, inputs: usize, outputs: usize, bias: bool) -> Linear {
    Linear { name, inputs, outputs, bias, cut: Cut::Column, share: None }
}

fn norm(name: &str, shape: &Shape) -> Norm {
    Norm::Rms { name: name.to_owned(), epsilon: shape.epsilon }
}
