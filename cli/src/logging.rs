//! Log lines on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging: warnings for one-shot commands, information for servers, more with `-v`;
/// `MLXCEL_LOG` (in the syntax of `RUST_LOG`) decides instead where it is set.
pub(crate) fn init(verbose: u8, long_running: bool) {
    let ours = match verbose + u8::from(long_running) {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = match std::env::var("MLXCEL_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::new(text),
        _ => EnvFilter::new(directives(ours)),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Our own crates at `level`; libraries speak only when something is wrong.
fn directives(level: &str) -> String {
    let crates = [
        "mlxcel",
        "mlxcel_cluster_config",
        "mlxcel_engine",
        "mlxcel_model_store",
        "mlxcel_node",
        "mlxcel_router",
    ];
    let ours: Vec<String> = crates.iter().map(|name| format!("{name}={level}")).collect();
    format!("error,{}", ours.join(","))
}
