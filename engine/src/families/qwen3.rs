//! Qwen 3 (dense).
//!
//! RMS norms over query and key heads, an explicit `head_dim`, biases only where
//! `attention_bias` says so.

use super::config::Config;
use super::error::FamilyError;
use super::qwen2;
use super::transformer::{self, Variant};
use crate::decoder::Decoder;

pub(super) fn describe(config: Config<'_>) -> Result<Decoder, FamilyError> {
    config.count("head_dim")?;
    let attention_bias = config.flag("attention_bias", false)?;
    let variant = Variant {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        head_norms: true,
        default_tied: false,
        ..qwen2::variant(config)?
    };
    transformer::decoder(config, "qwen3", &variant)
}
