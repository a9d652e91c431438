//! Writing a checkpoint as an MLX model directory.
//!
//! Any checkpoint that opens can be written: as it is, in another float type, or quantised by
//! MLX's rule. Tensors are converted one at a time, so memory stays far below the model's size.
//! Whether the model itself is supported, the caller has asked `families` before.

mod assets;
mod error;
mod floats;
mod output;
mod plan;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use error::WriteError;
use output::{Create, Output, PartialDirectory, create_file};
use plan::{Job, Outcome, Placed, Plan};

use super::{Checkpoint, Tensor, TensorDtype};
use crate::{LoadStep, Quantization};

/// Values quantised at once: bounds memory, and is enough to keep every core busy.
const VALUES_AT_ONCE: usize = 1 << 24;

/// How to write a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOptions {
    /// Quantise every matrix whose rows are whole groups.
    pub quantize: Option<Quantization>,
    /// Write floats as F16, BF16 or F32 instead of their own type.
    pub dtype: Option<TensorDtype>,
    /// Largest file, in bytes; a larger tensor has a file of its own.
    pub shard_bytes: u64,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { quantize: None, dtype: None, shard_bytes: 5 << 30 }
    }
}

/// Writes `checkpoint` into the new directory `directory`: config.json, safetensors (with an
/// index above `shard_bytes`), tokenizer and generation settings.
///
/// The directory appears whole or not at all. Fails when it exists and is not empty, when the
/// disk is full, when the source is damaged, or when it is quantised and `quantize` is set.
pub fn write_mlx_checkpoint(
    checkpoint: &Checkpoint,
    directory: &Path,
    options: &WriteOptions,
    progress: &mut dyn FnMut(LoadStep),
) -> Result<(), WriteError> {
    write_with(checkpoint, directory, options, progress, create_file)
}

fn write_with(
    checkpoint: &Checkpoint,
    directory: &Path,
    options: &WriteOptions,
    progress: &mut dyn FnMut(LoadStep),
    create: Create,
) -> Result<(), WriteError> {
    check(checkpoint, options)?;
    let plan = plan::plan(checkpoint, options);
    let output = PartialDirectory::create(directory, plan.total_bytes(), create)?;
    assets::write_text(checkpoint, &output)?;
    let config = assets::config(checkpoint, options, &plan);
    output.write("config.json", assets::pretty(&config).as_bytes())?;
    if let Some(index) = plan.index() {
        output.write("model.safetensors.index.json", assets::pretty(&index).as_bytes())?;
    }
    let mut files = Files::create(&plan, &output)?;
    let total_bytes = checkpoint.total_bytes();
    let mut done_bytes = 0;
    for job in &plan.jobs {
        let tensor = checkpoint.tensor(&job.source)?;
        files.write(job, &tensor)?;
        done_bytes += tensor.bytes.as_ref().len() as u64;
        let what = "converting weights".to_owned();
        progress(LoadStep { what, done_bytes, total_bytes: total_bytes.max(done_bytes) });
    }
    drop(files);
    output.finish()
}

fn check(checkpoint: &Checkpoint, options: &WriteOptions) -> Result<(), WriteError> {
    if let Some(Quantization { bits, group_size }) = options.quantize {
        if !matches!(bits, 2..=6 | 8) || !matches!(group_size, 32 | 64 | 128) {
            return Err(WriteError::Quantization { bits, group_size });
        }
        if !checkpoint.quantization().is_empty() {
            return Err(WriteError::AlreadyQuantized { path: checkpoint.path().to_path_buf() });
        }
    }
    match options.dtype.filter(|dtype| !dtype.is_weight_float()) {
        Some(dtype) => Err(WriteError::Dtype { dtype }),
        None => Ok(()),
    }
}

/// The safetensors files being written.
struct Files<'a> {
    plan: &'a Plan,
    output: &'a PartialDirectory,
    /// File and where its data begins.
    shards: Vec<(Box<dyn Output>, u64)>,
}

impl<'a> Files<'a> {
    fn create(plan: &'a Plan, output: &'a PartialDirectory) -> Result<Self, WriteError> {
        let mut shards = Vec::new();
        for shard in 0..plan.shards {
            let header = plan.header(shard);
            let mut file = output.open(&plan.file_name(shard))?;
            output.write_at(file.as_mut(), 0, &header)?;
            shards.push((file, header.len() as u64));
        }
        Ok(Self { plan, output, shards })
    }

    fn write(&mut self, job: &Job, tensor: &Tensor) -> Result<(), WriteError> {
        match job.outcome {
            Outcome::Keep(index) => {
                let target = self.plan.placed[index].info.dtype;
                if target == tensor.dtype {
                    return self.put(index, 0, tensor.bytes.as_ref());
                }
                let values = floats::widen(tensor.bytes.as_ref(), tensor.dtype);
                self.put(index, 0, &floats::narrow(&values, target))
            }
            Outcome::Quantize { quantization, packed, scales, biases } => {
                self.quantize(tensor, quantization, [packed, scales, biases])
            }
        }
    }

    fn quantize(
        &mut self,
        tensor: &Tensor,
        quantization: Quantization,
        [packed, scales, biases]: [usize; 3],
    ) -> Result<(), WriteError> {
        let columns = tensor.shape[1];
        let rows_at_once = (VALUES_AT_ONCE / columns).max(1);
        let row_bytes = columns * tensor.dtype.size_bytes();
        let affine = self.plan.placed[scales].info.dtype;
        let mut at = [0; 3];
        for rows in tensor.bytes.as_ref().chunks(rows_at_once * row_bytes) {
            let values = floats::widen(rows, tensor.dtype);
            let group = quantization.group_size as usize;
            let quantized =
                mlxcel_kernels::quantize(&values, values.len() / columns, columns, quantization.bits, group);
            // `plan` quantises whole groups of whole rows only.
            let quantized = quantized.expect("the plan's shapes are quantisable");
            let words: Vec<u8> = quantized.packed.iter().flat_map(|word| word.to_le_bytes()).collect();
            let parts =
                [words, floats::narrow(&quantized.scales, affine), floats::narrow(&quantized.biases, affine)];
            for ((index, part), at) in [packed, scales, biases].into_iter().zip(parts).zip(&mut at) {
                self.put(index, *at, &part)?;
                *at += part.len() as u64;
            }
        }
        Ok(())
    }

    fn put(&mut self, index: usize, at: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let Placed { shard, offset, .. } = self.plan.placed[index];
        let (file, data_start) = &mut self.shards[shard];
        self.output.write_at(file.as_mut(), *data_start + offset + at, bytes)
    }
}
