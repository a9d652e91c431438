//! `replica-speed`: a model on ranks of this host, beside itself alone, a JSON line each.
//!
//! Every rank is a process, pinned to cores of its own where there are enough. Says how many tokens a second so many
//! sequences get, serially (a step under way at a time) and as a pipeline; what a token costs beyond that of a device
//! alone; and what every rank read from disk and held at most. Start with cold files (`--cold`, as root) to see reads.

mod rank;
mod replica;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use serde_json::json;

use replica::{Figures, Replica};

/// Measure replicas.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// A checkpoint directory or GGUF file.
    #[arg(short, long)]
    model: PathBuf,
    /// Replicas: ranks of each stage, such as 1+1 or 2.
    #[arg(long, value_delimiter = ',', default_value = "1,1+1,2")]
    layouts: Vec<String>,
    /// Sequences at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    sequences: Vec<usize>,
    /// Tokens each of them gets.
    #[arg(long, default_value_t = 64)]
    tokens: u32,
    /// Runs of each case; the median is printed.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Cores for each rank, in turn, such as 0 or 0-1.
    #[arg(long, value_delimiter = ',')]
    cores: Vec<String>,
    /// The GPU of each rank, in turn, such as 0,1; 0,0 has two ranks share one.
    #[arg(long, value_delimiter = ',')]
    gpus: Vec<u32>,
    /// Drop the system's cache of files before each replica is loaded.
    #[arg(long)]
    cold: bool,
    /// Which rank this process is; what measures starts those.
    #[arg(long, hide = true)]
    rank: Option<usize>,
    /// Steps under way at a time.
    #[arg(long, hide = true)]
    micro_batches: Option<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(rank) = args.rank {
        return rank::run(&args, rank);
    }
    for layout in &args.layouts {
        let stages = parse(layout)?;
        let kinds: &[(&str, Option<usize>)] =
            if stages.len() > 1 { &[("serial", Some(1)), ("pipeline", None)] } else { &[("", None)] };
        for (kind, micro_batches) in kinds {
            let mut replica = Replica::start(&args, &stages, *micro_batches)?;
            for sequences in &args.sequences {
                let Figures { tokens_per_second, micros_per_token, digest } =
                    replica.measure(&args, *sequences)?;
                println!(
                    "{}",
                    json!({
                        "layout": layout, "kind": kind, "sequences": sequences,
                        "tokens_per_second": tokens_per_second, "us_per_token_and_sequence": micros_per_token,
                        "digest": digest,
                    })
                );
            }
            println!("{}", json!({ "layout": layout, "kind": kind, "ranks": replica.footprints()? }));
        }
    }
    Ok(())
}

/// Ranks of each stage.
pub(crate) fn parse(layout: &str) -> Result<Vec<usize>> {
    let stages: Result<Vec<usize>, _> = layout.split('+').map(str::parse).collect();
    match stages {
        Ok(stages) if stages.iter().all(|ranks| *ranks > 0) => Ok(stages),
        _ => bail!("a layout is the ranks of each stage, such as 1+1 or 2, got {layout}"),
    }
}
