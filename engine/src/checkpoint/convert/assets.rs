//! The files beside the weights: configuration, tokenizer, generation settings.
//!
//! Copies a directory's own text files unchanged; for GGUF it writes those Hugging Face's and
//! MLX's loaders look for. It does not interpret a tokenizer.

use serde_json::{Map, Value, json};

use super::WriteOptions;
use super::error::WriteError;
use super::output::PartialDirectory;
use super::plan::Plan;
use crate::checkpoint::quantization::QuantizationConfig;
use crate::checkpoint::{Checkpoint, CheckpointError, TensorDtype};
use crate::text::TextAssets;

/// Text files a model directory may hold.
const COPIED: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
    "generation_config.json",
];

/// config.json of the new checkpoint.
pub(super) fn config(checkpoint: &Checkpoint, options: &WriteOptions, plan: &Plan) -> Value {
    let mut config = checkpoint.config().clone();
    let Some(object) = config.as_object_mut() else {
        return config;
    };
    let quantization = QuantizationConfig::from_modules(plan.quantized.iter().cloned().collect());
    for key in ["quantization", "quantization_config"] {
        object.shift_remove(key);
        // Readers disagree on which of the two they look at.
        if let Some(section) = quantization.to_json() {
            object.insert(key.into(), section);
        }
    }
    if let Some(dtype) = options.dtype {
        let name = match dtype {
            TensorDtype::F16 => "float16",
            TensorDtype::BF16 => "bfloat16",
            _ => "float32",
        };
        object.insert("torch_dtype".into(), json!(name));
    }
    config
}

/// Writes the tokenizer and what belongs to it.
pub(super) fn write_text(checkpoint: &Checkpoint, output: &PartialDirectory) -> Result<(), WriteError> {
    let assets = checkpoint.text_assets()?;
    let Some(directory) = checkpoint.text_directory() else {
        return write_generated(checkpoint, &assets, output);
    };
    for name in COPIED {
        let path = directory.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => output.write(name, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(CheckpointError::read(&path, error).into()),
        }
    }
    Ok(())
}

fn write_generated(
    checkpoint: &Checkpoint,
    assets: &TextAssets,
    output: &PartialDirectory,
) -> Result<(), WriteError> {
    let mut settings = Map::new();
    settings.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    let special = [
        ("bos_token", &assets.bos_token),
        ("eos_token", &assets.eos_token),
        ("unk_token", &assets.unk_token),
        ("pad_token", &assets.pad_token),
    ];
    for (key, token) in special {
        if let Some(token) = token {
            settings.insert(key.into(), json!(token));
        }
    }
    let template = match (&assets.chat_template, &assets.tool_template) {
        (Some(chat), Some(tools)) => Some(json!([
            {"name": "default", "template": chat},
            {"name": "tool_use", "template": tools},
        ])),
        (chat, _) => chat.as_ref().map(|chat| json!(chat)),
    };
    if let Some(template) = template {
        settings.insert("chat_template".into(), template);
    }
    settings.insert("model_max_length".into(), checkpoint.config()["max_position_embeddings"].clone());
    let mut generation = Map::new();
    if let Some(id) = checkpoint.config().get("bos_token_id") {
        generation.insert("bos_token_id".into(), id.clone());
    }
    if !assets.eos_token_ids.is_empty() {
        generation.insert("eos_token_id".into(), json!(assets.eos_token_ids));
    }
    output.write("tokenizer.json", &assets.tokenizer)?;
    output.write("tokenizer_config.json", pretty(&Value::Object(settings)).as_bytes())?;
    output.write("generation_config.json", pretty(&Value::Object(generation)).as_bytes())
}

/// JSON for people.
pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
