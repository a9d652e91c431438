//! `./x fuzz`: coverage-guided fuzzing of what parses a peer's bytes.
//!
//! Builds the targets of `transport/fuzz` with the instrumentation that libFuzzer wants, by options of the stable
//! compiler, and runs each. Knows none of them by name.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools::{check, output};
use crate::{cargo, root};

/// What to run, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArgs {
    /// Run only this target; may be repeated.
    #[arg(long, value_name = "TARGET")]
    only: Vec<String>,
    /// Inputs to try for each target.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    runs: u64,
    /// Where random inputs begin; the same seed tries the same ones.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u32,
}

/// What `cargo fuzz` adds, without the address sanitizer, which only a nightly compiler has.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";

pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let package = root().join("transport/fuzz");
    let targets = selected(&package, &args.only)?;
    let built = build(&package)?;
    for target in targets {
        println!("==> {target}: {} inputs", args.runs);
        // Inputs that end in a panic are kept here.
        let findings = package.join("findings").join(&target);
        std::fs::create_dir_all(&findings).with_context(|| format!("cannot make {}", findings.display()))?;
        let mut command = Command::new(built.join(&target));
        command.arg(format!("-runs={}", args.runs)).arg(format!("-seed={}", args.seed));
        command
            .arg(format!("-artifact_prefix={}/", findings.display()))
            .args(["-max_len=2048", "-verbosity=0"]);
        check(&mut command)
            .with_context(|| format!("{target} found something: see {}", findings.display()))?;
        std::fs::remove_dir(&findings).ok();
    }
    std::fs::remove_dir(package.join("findings")).ok();
    println!("==> nothing was found");
    Ok(())
}

fn selected(package: &Path, only: &[String]) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(package.join("src/bin"))? {
        let path = entry?.path();
        targets.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    targets.sort();
    if let Some(unknown) = only.iter().find(|name| !targets.contains(name)) {
        bail!("no fuzz target is called `{unknown}`; there are: {}", targets.join(", "));
    }
    targets.retain(|target| only.is_empty() || only.contains(target));
    Ok(targets)
}

/// Where the programs are.
fn build(package: &Path) -> Result<PathBuf> {
    let version = output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` names no host")?;
    let dir = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let dir = dir.join("fuzz");
    // Named, so that build scripts and macros are compiled without instrumentation.
    check(
        Command::new(cargo())
            .args(["build", "--release", "--bins", "--target", host, "--manifest-path"])
            .arg(package.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", &dir)
            .env("RUSTFLAGS", INSTRUMENTATION),
    )?;
    Ok(dir.join(host).join("release"))
}
