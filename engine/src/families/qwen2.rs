//! Qwen 2 and 2.5.
//!
//! Biases on query, key and value only; the last layers slide when `use_sliding_window` is set.

use super::config::Config;
use super::error::FamilyError;
use super::transformer::{self, Slides, Variant};
use crate::decoder::Decoder;

pub(super) fn describe(config: Config<'_>) -> Result<Decoder, FamilyError> {
    transformer::decoder(config, "qwen2", &variant(config)?)
}

/// Shared with Qwen 3, which changes the biases and adds head norms.
pub(super) fn variant(config: Config<'_>) -> Result<Variant, FamilyError> {
    Ok(Variant {
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        head_norms: false,
        default_rope_theta: 1_000_000.0,
        default_context: 32_768,
        default_tied: true,
        slides: slides(config)?,
    })
}

fn slides(config: Config<'_>) -> Result<Slides, FamilyError> {
    if !config.flag("use_sliding_window", false)? {
        return Ok(Slides::Never);
    }
    Ok(Slides::From(config.get("max_window_layers").map_or(Ok(28), |value| {
        let first = value.as_u64().and_then(|first| usize::try_from(first).ok());
        first.ok_or_else(|| config.wrong("max_window_layers", "a whole number"))
    })?))
}
