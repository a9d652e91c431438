//! GGUF files as checkpoints.
//!
//! Translates llama.cpp's container, names, row order and blocks into what an MLX checkpoint
//! would hold, without loss, or refuses by name. It does not know how the engine uses them.

mod architecture;
mod block;
mod bpe;
mod container;
mod cursor;
mod metadata;
mod names;
mod packed;
mod rope_factors;
mod sentencepiece;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::error::CheckpointError;
use super::mapped::MappedFile;
use super::quantization::QuantizationConfig;
use super::stored::Stored;
use crate::Quantization;
use crate::text::TextAssets;
use architecture::{Architecture, read_architecture};
use container::{Container, Entry, Refusal, read_container};
pub(super) use packed::{Part, Rows};

/// Tensors that are read elsewhere or carry nothing.
const NOT_WEIGHTS: &[&str] = &["rope_freqs.weight"];

/// What a GGUF file holds besides its tokenizer.
pub(super) struct Gguf {
    pub(super) config: Value,
    pub(super) tensors: BTreeMap<String, Stored>,
    pub(super) quantization: QuantizationConfig,
    pub(super) text: GgufText,
}

/// The tokenizer part of a GGUF file, built when it is asked for.
pub(super) struct GgufText {
    file: Arc<MappedFile>,
    metadata: metadata::Metadata,
}

impl GgufText {
    pub(super) fn assets(&self) -> Result<TextAssets, CheckpointError> {
        let source = self.file.path().display().to_string();
        tokenizer::text_assets(&self.metadata, self.file.bytes(), source)
            .map_err(|refusal| error(self.file.path(), refusal))
    }
}

/// Opens a GGUF file.
pub(super) fn open(path: &Path) -> Result<Gguf, CheckpointError> {
    let file = MappedFile::open(path)?;
    read(&file).map_err(|refusal| error(path, refusal))
}

fn error(path: &Path, refusal: Refusal) -> CheckpointError {
    match refusal {
        Refusal::Damaged(what) => CheckpointError::damaged(path, what),
        Refusal::Unsupported(what) => CheckpointError::unsupported(path, what),
    }
}

fn read(file: &Arc<MappedFile>) -> Result<Gguf, Refusal> {
    let container = read_container(file.bytes())?;
    let architecture = read_architecture(&container, file.bytes())?;
    let Container { metadata, tensors: entries } = container;
    let mut tensors = BTreeMap::new();
    let mut quantized = BTreeMap::new();
    for (name, entry) in entries {
        if NOT_WEIGHTS.contains(&name.as_str()) {
            continue;
        }
        let Some(renamed) = names::rename(&name) else {
            return Err(Refusal::Unsupported(format!(
                "holds tensor {name}, which no supported architecture has"
            )));
        };
        let rows = rows(file, &name, entry, renamed.rotated.then_some(&architecture))?;
        if let Some(quantization) = rows.block.quantization() {
            if renamed.kind != "weight" || rows.shape.len() != 2 {
                return Err(Refusal::Damaged(format!("tensor {name} is quantised, but not a matrix")));
            }
            quantized.insert(renamed.module.clone(), quantization);
        }
        insert(&mut tensors, &renamed, &rows);
    }
    let quantization = QuantizationConfig::from_modules(quantized);
    let mut config = architecture.config;
    if let (Some(section), Some(object)) = (quantization.to_json(), config.as_object_mut()) {
        object.insert("quantization".into(), section);
    }
    Ok(Gguf { config, tensors, quantization, text: GgufText { file: file.clone(), metadata } })
}

fn rows(
    file: &Arc<MappedFile>,
    name: &str,
    entry: Entry,
    rotated: Option<&Architecture>,
) -> Result<Rows, Refusal> {
    let interleaved_heads = rotated.filter(|architecture| architecture.interleaved).map(|a| a.head_dim);
    if interleaved_heads.is_some_and(|head_dim| !entry.shape[0].is_multiple_of(head_dim)) {
        return Err(Refusal::Damaged(format!("tensor {name} of shape {:?} is not whole heads", entry.shape)));
    }
    Ok(Rows {
        file: file.clone(),
        range: entry.range,
        block: entry.block,
        shape: entry.shape,
        interleaved_heads,
    })
}

fn insert(tensors: &mut BTreeMap<String, Stored>, renamed: &names::Renamed, rows: &Rows) {
    let module = &renamed.module;
    let stored = |part| Stored::Gguf(rows.clone(), part);
    tensors.insert(format!("{module}.{}", renamed.kind), stored(Part::Weight));
    let quantization = rows.block.quantization();
    if quantization.is_some() {
        tensors.insert(format!("{module}.scales"), stored(Part::Scales));
    }
    if matches!(quantization, Some(Quantization::Affine { .. })) {
        tensors.insert(format!("{module}.biases"), stored(Part::Biases));
    }
}
