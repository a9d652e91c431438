//! Programs the checks need, found or installed.
//!
//! Installs cargo's own tools through cargo, Python's into an environment of ours and system
//! packages through apt. Which step needs what is for `test` to say.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{cargo, root, target_dir};

/// Runs a command to its end; a failure names it.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.current_dir(root()).status().with_context(|| format!("cannot run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Runs a command and returns what it printed on standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.current_dir(root()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed no text"))
}

/// Makes sure that `cargo NAME` exists, building it once where it does not.
pub(crate) fn cargo_tool(name: &str, version: &str) -> Result<()> {
    if runs(Command::new(cargo()).args([name, "--version"])) {
        return Ok(());
    }
    println!("    installing cargo-{name} {version}");
    // It only has to work; optimising it would take longer than it ever runs.
    check(
        Command::new(cargo())
            .args(["install", "--quiet", "--locked", &format!("cargo-{name}"), "--version", version])
            .envs([
                ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
                ("CARGO_PROFILE_RELEASE_LTO", "off"),
                ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
            ])
            .env("CARGO_TARGET_DIR", target_dir().join("tools")),
    )
}

/// Makes sure that a component of the Rust toolchain exists, where rustup keeps the toolchain.
pub(crate) fn rust_component(command: &str, component: &str) -> Result<()> {
    if runs(Command::new(cargo()).args([command, "--version"])) {
        return Ok(());
    }
    println!("    installing {component}");
    check(Command::new("rustup").args(["component", "add", component]))
}

/// A Python with the packages of a requirements file, in an environment of its own.
///
/// Made again whenever the file changes.
pub(crate) fn python_with(requirements: &Path) -> Result<PathBuf> {
    let wanted = std::fs::read_to_string(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let parent = requirements.parent().and_then(Path::file_name).unwrap_or(OsStr::new("python"));
    let dir = target_dir().join("venv").join(parent);
    let python = dir.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let stamp = dir.join("requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) && python.exists() {
        return Ok(python);
    }
    println!("    installing {}", requirements.strip_prefix(root()).unwrap_or(requirements).display());
    check(Command::new(host_python()).args(["-m", "venv", "--clear"]).arg(&dir))?;
    check(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(requirements),
    )?;
    // Last, so that an interrupted installation is not taken for a whole one.
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

/// Makes sure that files of system packages exist, installing the packages with apt.
pub(crate) fn system_packages(files: &[&str], packages: &[&str]) -> Result<()> {
    if files.iter().all(|file| Path::new(file).exists()) {
        return Ok(());
    }
    println!("    installing {}", packages.join(" "));
    let is_root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let apt = || {
        let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
        if !is_root {
            command.arg("apt-get");
        }
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    check(apt().args(["update", "-qq"]))?;
    check(
        apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages).stdout(Stdio::null()),
    )
}

/// The Python on this host.
pub(crate) fn host_python() -> &'static str {
    if cfg!(windows) { "python" } else { "python3" }
}

fn runs(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}
