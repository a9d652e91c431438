//! Flags of `mlxcel plan`.

use std::path::PathBuf;

use clap::Args;

/// `mlxcel plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The model: an alias, `owner/name`, a directory, or a GGUF file.
    pub(crate) model: String,
    /// A description of the hosts, their devices and the links between them, in TOML; docs/parallel.md shows some.
    #[arg(long, value_name = "FILE")]
    pub(crate) cluster: PathBuf,
    /// Sequences at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) sequences: u16,
    /// Tokens of each; 4096 by default, or what the model was trained for if that is less.
    #[arg(short = 'c', long, value_name = "TOKENS")]
    pub(crate) context: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
