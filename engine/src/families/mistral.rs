//! Mistral 7B and its descendants.
//!
//! Llama's shape, but `sliding_window` alone makes every layer slide.

use super::config::Config;
use super::error::FamilyError;
use super::llama;
use super::transformer::{self, Slides, Variant};
use crate::decoder::Decoder;

pub(super) fn describe(config: Config<'_>) -> Result<Decoder, FamilyError> {
    let variant = Variant { slides: Slides::Always, default_context: 4096 * 32, ..llama::variant(config)? };
    transformer::decoder(config, "mistral", &variant)
}
