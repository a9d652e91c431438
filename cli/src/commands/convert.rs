//! `mlxcel convert`: any readable model as an MLX checkpoint.

use anyhow::{Context, Result};
use mlxcel_engine::Quantization;
use mlxcel_engine::checkpoint::{Checkpoint, WriteOptions, write_mlx_checkpoint};

use super::loading::resolve;
use crate::args::ConvertArgs;
use crate::terminal::Progress;

pub(crate) async fn run(args: ConvertArgs) -> Result<()> {
    let path = resolve(&args.model).await?;
    let options = WriteOptions {
        quantize: args.quantize.map(|bits| Quantization { bits, group_size: args.group_size }),
        dtype: args.dtype,
        ..WriteOptions::default()
    };
    let output = args.output.clone();
    let converting = tokio::task::spawn_blocking(move || -> Result<()> {
        let checkpoint = Checkpoint::open(&path)?;
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
