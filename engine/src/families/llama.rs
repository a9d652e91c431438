//! Llama and the many models that share its shape (SmolLM, TinyLlama, Yi, Llama 3).
//!
//! Optional biases on attention and feed-forward; layers slide only where `layer_types` says so.

use super::config::Config;
use super::error::FamilyError;
use super::transformer::{self, Slides, Variant};
use crate::decoder::Decoder;

pub(super) fn describe(config: Config<'_>) -> Result<Decoder, FamilyError> {
    transformer::decoder(config, "llama", &variant(config)?)
}

/// Shared with families that differ from Llama in one point.
pub(super) fn variant(config: Config<'_>) -> Result<Variant, FamilyError> {
    let attention_bias = config.flag("attention_bias", false)?;
    Ok(Variant {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: config.flag("mlp_bias", false)?,
        head_norms: false,
        default_rope_theta: 10_000.0,
        default_context: 2048,
        default_tied: true,
        slides: Slides::Never,
    })
}
