//! Model families: from a `config.json` to a decoder's description.
//!
//! One file a family, saying only what is different; aliases are rows of a table. Families hold
//! no tensors and run nothing: `decoder` does that from the description alone.

mod config;
mod error;
mod lfm2;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod rope;
mod transformer;
mod weights;

use serde_json::Value;

use crate::decoder::Decoder;
use config::Config;
pub use error::FamilyError;
pub use weights::weight_name;

/// One row of `mlxcel arch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// The family whose description it uses.
    pub family: &'static str,
    /// Models that use it.
    pub models: &'static str,
}

struct Row {
    family: Family,
    describe: fn(Config<'_>) -> Result<Decoder, FamilyError>,
}

const fn row(
    model_type: &'static str,
    family: &'static str,
    models: &'static str,
    describe: fn(Config<'_>) -> Result<Decoder, FamilyError>,
) -> Row {
    Row { family: Family { model_type, family, models }, describe }
}

/// Every `model_type`; those that differ from their family's name are aliases.
const TABLE: &[Row] = &[
    row("llama", "llama", "Llama 1-3, SmolLM, TinyLlama, Yi, DeepSeek (dense)", llama::describe),
    row("mistral", "mistral", "Mistral 7B, Nemo, Small", mistral::describe),
    row("qwen2", "qwen2", "Qwen 2, Qwen 2.5, QwQ", qwen2::describe),
    row("qwen3", "qwen3", "Qwen 3 (dense)", qwen3::describe),
    row("lfm2", "lfm2", "LFM2 (dense)", lfm2::describe),
    row("iquestcoder", "llama", "IQuest Coder", llama::describe),
    row("xverse", "llama", "XVERSE (dense)", llama::describe),
];

/// Every supported `model_type`.
pub fn list() -> impl Iterator<Item = Family> {
    TABLE.iter().map(|row| row.family)
}

/// The decoder a `config.json` describes.
///
/// Fails when `model_type` is unknown, a key is missing or out of range, or the configuration
/// asks for something no family here does.
pub fn describe(config: &Value) -> Result<Decoder, FamilyError> {
    let config = Config::new(config);
    let model_type = config.text("model_type")?.ok_or_else(|| config.missing("model_type"))?;
    match TABLE.iter().find(|row| row.family.model_type == model_type) {
        Some(row) => (row.describe)(config),
        None => Err(FamilyError::Unknown {
            model_type: model_type.to_owned(),
            supported: list().map(|family| family.model_type).collect::<Vec<_>>().join(", "),
        }),
    }
}
