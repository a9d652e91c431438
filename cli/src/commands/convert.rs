//! `mlxcel convert`: any readable model as an MLX checkpoint.

use anyhow::{Context, Result};
use mlxcel_engine::checkpoint::{Checkpoint, WriteOptions, write_mlx_checkpoint};
use mlxcel_engine::families;

use super::loading::resolve;
use crate::args::{ConvertArgs, quantization};
use crate::terminal::Progress;

pub(crate) async fn run(args: ConvertArgs) -> Result<()> {
    let path = resolve(&args.model).await?;
    let options = WriteOptions {
        quantize: quantization(args.quantize, args.group_size)?,
        dtype: args.dtype,
        ..WriteOptions::default()
    };
    let output = args.output.clone();
    let converting = tokio::task::spawn_blocking(move || -> Result<()> {
        let mut checkpoint = Checkpoint::open(&path)?;
        // Refuses what could not be run afterwards, and names tensors as every reader expects.
        families::describe(checkpoint.config()).with_context(|| path.display().to_string())?;
        checkpoint.rename(&families::weight_name);
        let mut progress = Progress::new();
        write_mlx_checkpoint(&checkpoint, &output, &options, &mut |step| {
            progress.update(&step.what, step.done_bytes, step.total_bytes);
        })?;
        Ok(())
    });
    converting.await.context("converting was interrupted")??;
    println!("{}", args.output.display());
    Ok(())
}
