//! `engine-speed`: prefill and decode rates of an engine, one JSON line a case; of one for each way to store keys and
//! values, in turns, where several are named.
//!
//! Drives the engine through its public trait with token prompts, so that the figures hold what a
//! request really costs. The peers run beside it from the scripts in this directory.

mod measure;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use mlxcel_engine::{DeviceChoice, KvDtype, LoadOptions, Quantization, Trace, load};
use serde_json::json;

use measure::{Case, Draw, median_runs};

/// For Rust and, by its name for `malloc`, for MLX: one thread builds a step's graph, another runs and frees it, and
/// with the C library's allocator they wait for each other (a tenth of the time of a CPU's decode step).
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measure an engine.
#[derive(Debug, Parser)]
struct Args {
    /// A checkpoint directory or GGUF file.
    #[arg(short, long)]
    model: PathBuf,
    /// Prompt lengths to prefill, in tokens.
    #[arg(long, value_delimiter = ',', default_values_t = [32, 128, 512])]
    prefill: Vec<u32>,
    /// Tokens to decode after a prompt of `--context` tokens; 0 for none.
    #[arg(long, default_value_t = 128)]
    decode: u32,
    /// Prompt length before decoding.
    #[arg(long, default_value_t = 32)]
    context: u32,
    /// Sequences decoded side by side.
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    sequences: Vec<u32>,
    /// Runs of each case; the median is printed.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    #[command(flatten)]
    draw: Draw,
    /// Run on the CPU in a GPU build.
    #[arg(long)]
    cpu: bool,
    /// Quantise while loading to this many bits, in groups of 64.
    #[arg(long)]
    quantize: Option<u32>,
    /// How keys and values are stored: f32, f16, int8 or int4, several to compare; the device's choice by default.
    #[arg(long, value_delimiter = ',')]
    kv_dtype: Vec<KvDtype>,
    /// Write when each step was planned, built, waited for and read, in Chrome's trace format.
    #[arg(long)]
    trace: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let options = LoadOptions {
        device: if args.cpu { DeviceChoice::Cpu } else { DeviceChoice::Default },
        quantize: args.quantize.map(|bits| Quantization::Affine { bits, group_size: 64 }),
        max_sequences: args.sequences.iter().max().copied(),
        trace: args.trace.as_deref().map(Trace::create).transpose()?.map(Arc::new),
        ..LoadOptions::default()
    };
    let dtypes = match args.kv_dtype.as_slice() {
        [] => vec![None],
        named => named.iter().copied().map(Some).collect(),
    };
    let engine = |&kv_dtype| load(&args.model, &LoadOptions { kv_dtype, ..options.clone() }, &mut |_| {});
    let engines = dtypes.iter().map(engine).collect::<Result<Vec<_>, _>>()?;
    for &prompt in &args.prefill {
        let case = Case { prompt, decode: 1, sequences: 1, draw: args.draw };
        for (dtype, rates) in dtypes.iter().zip(median_runs(&engines, case, args.runs)?) {
            print(
                *dtype,
                json!({"case": "prefill", "tokens": prompt, "tokens_per_second": rates.prefill_rate}),
            );
        }
    }
    if args.decode > 0 {
        for &sequences in &args.sequences {
            let case = Case { prompt: args.context, decode: args.decode, sequences, draw: args.draw };
            for (dtype, rates) in dtypes.iter().zip(median_runs(&engines, case, args.runs)?) {
                let line = json!({
                    "case": "decode", "context": args.context, "tokens": args.decode,
                    "sequences": sequences, "tokens_per_second": rates.decode_rate,
                });
                print(*dtype, line);
            }
        }
    }
    Ok(())
}

/// One line, with the dtype of keys and values where one was named.
fn print(dtype: Option<KvDtype>, mut line: serde_json::Value) {
    if let Some(dtype) = dtype {
        line["kv_dtype"] = dtype.name().into();
    }
    println!("{line}");
}
