//! Developer commands, run through `./x`.
//!
//! Parses the command line and says where things are. What `test` consists of is for `test` to
//! say, what a cluster needs to show for `quickstart`.

mod fuzz;
mod quickstart;
mod steps;
mod test;
mod tidy;
mod tools;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "x", about = "Developer commands")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Everything CI checks.
    Test(test::TestArgs),
    /// Fuzz what parses a peer's bytes.
    Fuzz(fuzz::FuzzArgs),
    /// Build, start a router and two nodes, ask a question, kill one node, ask again.
    Quickstart,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Test(args) => test::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Quickstart => quickstart(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn quickstart() -> Result<()> {
    println!("==> building mlxcel");
    let status = Command::new(cargo()).args(["build", "-p", "mlxcel"]).current_dir(root()).status();
    if !status.context("cannot run cargo")?.success() {
        bail!("building mlxcel failed");
    }
    quickstart::run(&built_program())
}

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The program `mlxcel` once it is built.
fn built_program() -> PathBuf {
    quickstart::built_program(&target_dir())
}

/// The cargo that runs us.
fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
