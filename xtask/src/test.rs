//! `./x test`: what CI checks, step by step.
//!
//! Every step can be run alone with `--only`. Debug builds only, so that the dependencies are
//! compiled once for clippy and once for everything that runs.

mod parity;
mod platforms;
mod rdma;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::steps::{self, Selection, Step};
use crate::tools::{cargo_tool, check, output, python_with, rust_component};
use crate::{built_program, cargo, root, tidy};

/// What to check.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// Also type-check for Windows and link for macOS; needs Debian or Ubuntu.
    #[arg(long)]
    all_platforms: bool,
    /// Print the steps and stop.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    selection: Selection,
}

const STEPS: &[Step] = &[
    Step { name: "format", run: format },
    Step { name: "tidy", run: tidy::run },
    Step { name: "licences", run: licences },
    Step { name: "clippy", run: clippy },
    Step { name: "build", run: build },
    Step { name: "parity", run: parity::generate },
    Step { name: "tests", run: tests },
    Step { name: "rdma", run: rdma::alone },
    Step { name: "rdma-hosts", run: rdma::hosts },
    Step { name: "doc-tests", run: doc_tests },
    Step { name: "openai-client", run: openai_client },
];

const PLATFORM_STEPS: &[Step] = &[
    Step { name: "windows", run: platforms::check_windows },
    Step { name: "macos", run: platforms::link_macos },
];

const NEXTEST: (&str, &str) = ("nextest", "0.9.143");
const DENY: (&str, &str) = ("deny", "0.20.2");

pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let extra = if args.all_platforms { PLATFORM_STEPS } else { &[] };
    let steps: Vec<Step> = STEPS.iter().chain(extra).map(|s| Step { name: s.name, run: s.run }).collect();
    if args.list {
        steps.iter().for_each(|step| println!("{}", step.name));
        return Ok(());
    }
    steps::run(&steps, &args.selection)
}

fn format() -> Result<()> {
    rust_component("fmt", "rustfmt")?;
    check(Command::new(cargo()).args(["fmt", "--all", "--check"])).context("run `cargo fmt --all`")
}

fn licences() -> Result<()> {
    cargo_tool(DENY.0, DENY.1)?;
    // Advisories need their database, which is fetched from where only hosted CI can reach.
    let mut checks = vec!["licenses", "bans", "sources"];
    if std::env::var_os("GITHUB_ACTIONS").is_some() {
        checks.push("advisories");
    }
    check(Command::new(cargo()).args(["deny", "--log-level", "error", "check"]).args(checks))
}

fn clippy() -> Result<()> {
    rust_component("clippy", "clippy")?;
    check(Command::new(cargo()).args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

/// Tests and programs, built as they will be run.
fn build() -> Result<()> {
    cargo_tool(NEXTEST.0, NEXTEST.1)?;
    check(Command::new(cargo()).args(["nextest", "run", "--workspace", "--no-run"]))
}

fn tests() -> Result<()> {
    lab_packages()?;
    check(
        Command::new(cargo())
            .args(["nextest", "run", "--workspace"])
            .env("MLXCEL_TEST_SMOLLM2", default_model()?)
            .env("MLXCEL_PARITY_DIR", parity::dir()),
    )
}

fn doc_tests() -> Result<()> {
    check(Command::new(cargo()).args(["test", "--quiet", "--workspace", "--doc"]))
}

/// The `openai` package against a running `mlxcel serve`.
fn openai_client() -> Result<()> {
    let dir = root().join("tests/openai_client");
    let python = python_with(&dir.join("requirements.txt"))?;
    check(Command::new(python).arg(dir.join("run.py")).arg(built_program()))
}

/// The default model, imported on first use.
fn default_model() -> Result<PathBuf> {
    let text = output(Command::new(built_program()).args(["download", "smollm2", "--json"]))?;
    let report: Value = serde_json::from_str(&text).context("`mlxcel download --json` printed no JSON")?;
    let path = report["path"].as_str().context("`mlxcel download --json` named no path")?;
    Ok(PathBuf::from(path))
}

/// Discovery is tested between network namespaces, which `ip` makes.
fn lab_packages() -> Result<()> {
    let has_ip = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].iter().any(|path| Path::new(path).exists());
    if cfg!(not(target_os = "linux")) || has_ip {
        return Ok(());
    }
    crate::tools::system_packages(&["/usr/sbin/ip"], &["iproute2"])
}
