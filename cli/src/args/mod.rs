//! What a person types: the subcommands and their flags.
//!
//! Flag names follow llama.cpp where it has them. Parses and validates; `commands` acts.

#[cfg(feature = "distributed")]
mod link;
mod model;
mod network;
mod plan;
mod quantize;
mod sampling;

#[cfg(feature = "distributed")]
pub(crate) use link::LinkArgs;
pub(crate) use model::{LoadingArgs, ModelArgs, PromptArgs, TraceArgs, parse_device};
pub(crate) use network::{ClusterArgs, NodeArgs, RouterArgs, ServeArgs, WorkerArgs};
pub(crate) use plan::PlanArgs;
pub(crate) use quantize::{Quantize, parse_quantize, quantization};
pub(crate) use sampling::SamplingArgs;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mlxcel_engine::checkpoint::TensorDtype;

/// Any mix of hosts as one OpenAI-compatible endpoint, on Apple's MLX engine.
#[derive(Debug, Parser)]
#[command(name = "mlxcel", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// More log lines on standard error: -v for info, -vv for debug. `MLXCEL_LOG` overrides it.
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = 500)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Chat with a model in the terminal, or answer one prompt with -p.
    Run(RunArgs),
    /// Answer one prompt and report speed.
    Generate(GenerateArgs),
    /// Serve the OpenAI API from this host: a router and a node in one command.
    Serve(ServeArgs),
    /// Offer this host's devices to a router.
    Node(NodeArgs),
    /// Be the front door: find nodes and serve the OpenAI API over them.
    Router(RouterArgs),
    /// Measure the ways to another host; say which one is taken, and why.
    #[cfg(feature = "distributed")]
    Link(LinkArgs),
    /// Say which devices would hold which part of a model, and how fast at most.
    Plan(PlanArgs),
    /// Fetch a model into the store.
    Download(DownloadArgs),
    /// List the models in the store.
    List(ListArgs),
    /// Remove a model from the store.
    Rm(RmArgs),
    /// Show what a model needs: weights, KV cache, memory; and what this host has.
    Inspect(InspectArgs),
    /// List the supported architectures.
    Arch(ListArgs),
    /// Write a model as an MLX checkpoint.
    Convert(ConvertArgs),
    /// One device's worker process; started by `mlxcel node`.
    #[command(hide = true)]
    Worker(WorkerArgs),
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
impl Command {
    /// What `--device` says, where this process itself computes.
    pub(crate) fn device(&self) -> Option<&str> {
        match self {
            Self::Run(args) => Some(&args.model.device),
            Self::Generate(args) => Some(&args.model.device),
            Self::Inspect(args) => Some(&args.model.device),
            Self::Worker(args) => Some(&args.device),
            // These start a worker for every device.
            Self::Node(args) => Some(&args.device),
            Self::Serve(args) => Some(&args.model.device),
            #[cfg(feature = "distributed")]
            Self::Link(_) => None,
            Self::Router(_)
            | Self::Plan(_)
            | Self::Download(_)
            | Self::List(_)
            | Self::Rm(_)
            | Self::Arch(_)
            | Self::Convert(_) => None,
        }
    }
}

/// `mlxcel run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Answer this and exit, instead of opening a conversation.
    #[arg(short, long)]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) options: PromptArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
}

/// `mlxcel generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The prompt; read from standard input when absent.
    #[arg(short, long)]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) options: PromptArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Print one JSON object with text, token ids and timings instead of the text.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
}

/// `mlxcel download`.
#[derive(Debug, Args)]
pub(crate) struct DownloadArgs {
    /// An alias, or `owner/name[@revision]` on the hub.
    pub(crate) model: String,
    /// Print one JSON object instead of a line of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `mlxcel list` and `mlxcel arch`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print a JSON array.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `mlxcel rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The model, as `mlxcel list` names it.
    pub(crate) model: String,
}

/// `mlxcel inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `mlxcel convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The model: an alias, `owner/name`, a directory, or a GGUF file.
    #[arg(short, long)]
    pub(crate) model: String,
    /// The directory to create.
    #[arg(short, long)]
    pub(crate) output: PathBuf,
    /// Quantise float weights to this many bits (2, 3, 4, 5, 6 or 8), or to 4-bit floats (`mxfp4`).
    #[arg(long, value_name = "BITS", value_parser = parse_quantize)]
    pub(crate) quantize: Option<Quantize>,
    /// Weights that share a scale when quantising to bits (32, 64 or 128; 64 by default).
    #[arg(long, value_name = "N", requires = "quantize")]
    pub(crate) group_size: Option<u32>,
    /// Write floats as f16, bf16 or f32; as they are by default.
    #[arg(long, value_parser = parse_dtype)]
    pub(crate) dtype: Option<TensorDtype>,
}

fn parse_dtype(text: &str) -> Result<TensorDtype, String> {
    match text {
        "f16" => Ok(TensorDtype::F16),
        "bf16" => Ok(TensorDtype::BF16),
        "f32" => Ok(TensorDtype::F32),
        _ => Err("a dtype is f16, bf16 or f32".to_owned()),
    }
}
