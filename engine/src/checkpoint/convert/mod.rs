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
    if let Some(quantization) = options.quantize {
        if !quantization.exists() {
            let (bits, group_size) = (quantization.bits(), quantization.group_size());
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
                let targets: Vec<usize> = [packed, scales].into_iter().chain(biases).collect();
                self.quantize(tensor, quantization, &targets)
            }
        }
    }

    fn quantize(
        &mut self,
        tensor: &Tensor,
        quantization: Quantization,
        targets: &[usize],
    ) -> Result<(), WriteError> {
        let columns = tensor.shape[1];
        let rows_at_once = (VALUES_AT_ONCE / columns).max(1);
        let row_bytes = columns * tensor.dtype.size_bytes();
        let scales = self.plan.placed[targets[1]].info.dtype;
        let mut at = vec![0; targets.len()];
        for rows in tensor.bytes.as_ref().chunks(rows_at_once * row_bytes) {
            let values = floats::widen(rows, tensor.dtype);
            let parts = quantized(&values, columns, quantization, scales);
            for ((&index, part), at) in targets.iter().zip(parts).zip(&mut at) {
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

/// Bytes of the codes, the scales and, in affine layouts, the biases of rows; scales and biases of those as `dtype`.
fn quantized(values: &[f32], columns: usize, how: Quantization, dtype: TensorDtype) -> Vec<Vec<u8>> {
    let rows = values.len() / columns;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    match how {
        Quantization::Affine { bits, group_size } => {
            let made = mlxcel_kernels::quantize(values, rows, columns, bits, group_size as usize);
            // `plan` quantises whole groups of whole rows only.
            let made = made.expect("the plan's shapes are quantisable");
            let [scales, biases] = [made.scales, made.biases].map(|floats| floats::narrow(&floats, dtype));
            vec![words(&made.packed), scales, biases]
        }
        Quantization::Mxfp4 => {
            let made = mlxcel_kernels::quantize_mxfp4(values, rows, columns);
            let made = made.expect("the plan's shapes are quantisable");
            vec![words(&made.packed), made.scales]
        }
    }
}
