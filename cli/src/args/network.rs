//! Flags of the commands that open sockets.

use std::net::IpAddr;

use clap::Args;

use super::model::checked_device;
use super::{LoadingArgs, ModelArgs, TraceArgs};

/// Who is in the cluster.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArgs {
    /// A secret shared by routers and nodes; without it the first router to find a node claims it.
    #[arg(long, env = "MLXCEL_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Connect to HOST:PORT as well as to what multicast finds; may be given several times.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) join: Vec<String>,
    /// Neither announce nor look for anything by mDNS.
    #[arg(long)]
    pub(crate) no_mdns: bool,
    /// Where identity and trust are kept.
    #[arg(long, value_name = "DIR", env = "MLXCEL_STATE_DIR")]
    pub(crate) state_dir: Option<std::path::PathBuf>,
    /// A name for people; the host's name by default.
    #[arg(long)]
    pub(crate) name: Option<String>,
}

/// `mlxcel router`.
#[derive(Debug, Args)]
pub(crate) struct RouterArgs {
    #[command(flatten)]
    pub(crate) http: HttpArgs,
    /// Port on which nodes reach the router; any free one by default.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) control_port: u16,
    /// Ranks of each stage of models that no device holds alone, such as 2+1; as planned by default.
    #[arg(long, value_name = "RANKS", value_parser = parse_layout)]
    pub(crate) layout: Option<Layout>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// Ranks of each stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout(pub(crate) Vec<usize>);

/// Numbers of ranks, such as `3`, `1+1+1` or `2+1`.
fn parse_layout(text: &str) -> Result<Layout, String> {
    let stages: Result<Vec<usize>, _> = text.split('+').map(|ranks| ranks.trim().parse()).collect();
    match stages {
        Ok(stages) if stages.iter().all(|ranks| (1..=MOST_RANKS).contains(ranks)) => Ok(Layout(stages)),
        _ => Err(format!(
            "a layout is the ranks of each stage, 1 to {MOST_RANKS}, such as 3, 1+1+1 or 2+1, got '{text}'"
        )),
    }
}

const MOST_RANKS: usize = 256;

/// Where the OpenAI API is served.
#[derive(Debug, Clone, Args)]
pub(crate) struct HttpArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 for any free one.
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// Refuse requests without this bearer token; given several times, with one of them, each with an equal share.
    #[arg(long, env = "MLXCEL_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Vec<String>,
    /// Most requests that wait for room on a node; more are refused with status 429.
    #[arg(long, value_name = "REQUESTS", default_value_t = 1024)]
    pub(crate) queue: usize,
    /// Most of them for one model.
    #[arg(long, value_name = "REQUESTS", default_value_t = 512)]
    pub(crate) queue_per_model: usize,
    /// Seconds to let running requests finish after the first Ctrl-C or SIGTERM.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) drain_timeout: u64,
}

/// `mlxcel node`.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// A model to load at once; may be given several times. Others are loaded when asked for.
    #[arg(short, long)]
    pub(crate) model: Vec<String>,
    /// The name requests use, where one model is given; the model's own by default.
    #[arg(short, long, requires = "model")]
    pub(crate) alias: Option<String>,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    pub(crate) host: IpAddr,
    /// Port to listen on; any free one by default.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Where to run: `auto`, `cpu`, `gpu` or `gpu:N`; all GPUs in a GPU build by default.
    #[arg(long, default_value = "auto", value_parser = checked_device)]
    pub(crate) device: String,
    /// Most memory of each device to use, such as 900MB or 24GB; all of it by default.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) memory: Option<u64>,
    #[command(flatten)]
    pub(crate) loading: LoadingArgs,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    /// Take whole requests only, never a part of a distributed one.
    #[arg(long)]
    pub(crate) standalone: bool,
    /// Forget the cluster that claimed this node, then start.
    #[arg(long)]
    pub(crate) forget_cluster: bool,
    /// Seconds to let running requests finish after the first Ctrl-C or SIGTERM.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) drain_timeout: u64,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// `mlxcel serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The name requests use; the model's own by default.
    #[arg(short, long)]
    pub(crate) alias: Option<String>,
    /// Where identity and trust are kept.
    #[arg(long, value_name = "DIR", env = "MLXCEL_STATE_DIR")]
    pub(crate) state_dir: Option<std::path::PathBuf>,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    #[command(flatten)]
    pub(crate) http: HttpArgs,
}

/// `mlxcel worker`.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Where to run: `auto`, `cpu`, `gpu` or `gpu:N`.
    #[arg(long, default_value = "auto", value_parser = checked_device)]
    pub(crate) device: String,
    /// Index under which the device is reported.
    #[arg(long, default_value_t = 0)]
    pub(crate) index: u32,
    /// Most memory of the device to use, such as 900MB or 24GB; all of it by default.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) memory: Option<u64>,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
}

/// A number of bytes: `900MB`, `1.5GB`, `24GiB`, or bytes.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("a size is a number of B, KB, MB, GB, KiB, MiB or GiB, got '{text}'")),
    };
    match number.parse::<f64>() {
        Ok(number) if number * factor >= 1.0 => Ok((number * factor) as u64),
        _ => Err(format!("a size is more than 0, such as 900MB or 24GB, got '{text}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_or_refused_with_the_units() {
        let sizes =
            [("900MB", 900_000_000), ("1.5 GiB", 1_610_612_736), ("4096", 4096), ("2gb", 2_000_000_000)];
        for (text, bytes) in sizes {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "0", "lots", "3TB", "1.2.3GB"] {
            assert!(parse_bytes(wrong).is_err_and(|error| error.contains("a size is")), "{wrong}");
        }
    }

    #[test]
    fn layouts_are_parsed_or_refused_with_examples() {
        assert_eq!(parse_layout("2+1"), Ok(Layout(vec![2, 1])));
        for wrong in ["", "0", "1+", "2x1", "257"] {
            assert!(parse_layout(wrong).is_err_and(|error| error.contains("such as 3")), "{wrong}");
        }
    }
}
