//! What a model needs, without loading it: weights, KV cache, memory.
//!
//! Reads headers and configuration only. Says what `load` would do; loads nothing.

use std::path::{Path, PathBuf};

use crate::api::{LoadOptions, Quantization};
use crate::checkpoint::Checkpoint;
use crate::decoder::{Execution, kv_bytes_per_token, state_bytes};
use crate::described::described;
use crate::device::{Device, DeviceInfo};
use crate::serving::LoadError;

/// What a model needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The directory or file.
    pub path: PathBuf,
    /// `model_type` of the configuration.
    pub family: String,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the hidden state.
    pub hidden_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence the model was trained for, in tokens.
    pub max_context: usize,
    /// Tensors in the checkpoint.
    pub tensors: usize,
    /// How matrices are stored, each with its number of modules; `None` for floats.
    pub storage: Vec<(Option<Quantization>, usize)>,
    /// Bytes of all weights as stored.
    pub weight_bytes: u64,
    /// Bytes of KV cache a token takes on the chosen device.
    pub kv_bytes_per_token: u64,
    /// Bytes that the states of a sequence take beside it, in layers that keep any.
    pub state_bytes: u64,
    /// Longest prompt plus output, in tokens, under the options.
    pub context_tokens: usize,
    /// The device it would run on.
    pub device: DeviceInfo,
}

impl Inspection {
    /// Bytes of weights, and of the KV cache and the states of one sequence as long as the context.
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes + self.kv_bytes_per_token * self.context_tokens as u64 + self.state_bytes
    }

    /// Whether that is less than the device's memory.
    pub fn fits(&self) -> bool {
        self.total_bytes() < self.device.memory_bytes
    }
}

/// What the model in `path` needs.
///
/// # Errors
/// As for [`crate::load`], for everything that can be found wrong without reading the weights.
pub fn inspect(path: &Path, options: &LoadOptions) -> Result<Inspection, LoadError> {
    let device = Device::choose(options.device)?;
    let (checkpoint, decoder) = described(path)?;
    let context_tokens = options.context_tokens.map_or(decoder.max_context, |tokens| tokens as usize);
    Ok(Inspection {
        path: path.to_owned(),
        layers: decoder.layers.len(),
        hidden_size: decoder.hidden_size,
        vocab_size: decoder.vocab_size,
        max_context: decoder.max_context,
        tensors: checkpoint.names().count(),
        storage: storage(&checkpoint),
        weight_bytes: checkpoint.total_bytes(),
        kv_bytes_per_token: kv_bytes_per_token(&decoder, options.kv_dtype, value_bytes(&device, &checkpoint)),
        state_bytes: state_bytes(&decoder, value_bytes(&device, &checkpoint)),
        context_tokens,
        device: device.info(),
        family: decoder.family,
    })
}

/// How the matrices are stored, most common first.
fn storage(checkpoint: &Checkpoint) -> Vec<(Option<Quantization>, usize)> {
    let mut kinds: Vec<(Option<Quantization>, usize)> = Vec::new();
    for name in checkpoint.names() {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        if checkpoint.info(name).is_none_or(|info| info.shape.len() != 2) {
            continue;
        }
        let kind = checkpoint.quantization().for_module(module);
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind, 1)),
        }
    }
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    kinds
}

/// Bytes of one cached value where no dtype was chosen: f32 for our CPU kernels, else two or four as the model is stored.
fn value_bytes(device: &Device, checkpoint: &Checkpoint) -> usize {
    let stored_f32 =
        checkpoint.info("model.embed_tokens.weight").is_some_and(|info| info.dtype.to_string() == "F32");
    match device.execution() {
        Execution::Graph | Execution::Cuda if !stored_f32 => 2,
        _ => 4,
    }
}
