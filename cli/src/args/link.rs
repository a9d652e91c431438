//! Flags of `mlxcel link`.

use std::path::PathBuf;

use clap::Args;

/// `mlxcel link`.
#[derive(Debug, Args)]
pub(crate) struct LinkArgs {
    /// The other host, where `mlxcel link --listen` waits.
    #[arg(value_name = "HOST:PORT", required_unless_present = "listen", conflicts_with = "listen")]
    pub(crate) peer: Option<String>,
    /// Wait for other hosts, until Ctrl-C.
    #[arg(long)]
    pub(crate) listen: bool,
    /// Port to wait on; any free one by default.
    #[arg(long, default_value_t = 0, requires = "listen")]
    pub(crate) port: u16,
    /// A secret that both hosts are given: nothing is measured with a host that does not hold it.
    #[arg(long, env = "MLXCEL_TOKEN", hide_env_values = true)]
    pub(crate) token: String,
    /// Seconds to measure each way for.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=600), conflicts_with = "listen")]
    pub(crate) seconds: u16,
    /// Print one JSON object.
    #[arg(long, conflicts_with = "listen")]
    pub(crate) json: bool,
    /// Where this host's identity is kept.
    #[arg(long, value_name = "DIR", env = "MLXCEL_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}
