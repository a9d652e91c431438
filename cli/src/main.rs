//! The `mlxcel` program: parses what a person typed, sets up logging, runs one command.
//!
//! Wiring only; each command is a file under `commands`.

mod args;
mod commands;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod cpu_build;
mod logging;
mod sys;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// For Rust and, by its name for `malloc`, for MLX: one thread builds a step's graph, another runs and frees it, and
/// with the C library's allocator they wait for each other (a tenth of the time of a CPU's decode step).
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    if let Err(error) = cpu_build::start_again_if_needed(&cli.command) {
        return failure(&anyhow::anyhow!("cannot start again with the CPU build of MLX: {error}"));
    }
    let long_running =
        matches!(cli.command, Command::Serve(_) | Command::Node(_) | Command::Router(_) | Command::Worker(_));
    logging::init(cli.verbose, long_running);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&anyhow::anyhow!("cannot start the runtime: {error}")),
    };
    let result = runtime.block_on(commands::run(cli.command));
    // A REPL or a model load may still sit in a blocking thread; the process ends without it.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => failure(&error),
    }
}

fn failure(error: &anyhow::Error) -> ExitCode {
    let cause = error.downcast_ref::<std::io::Error>();
    if cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe) {
        // Whoever read our output has had enough of it, as `head` does.
        return ExitCode::FAILURE;
    }
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
