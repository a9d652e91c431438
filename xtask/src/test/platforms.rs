//! Windows and macOS, as far as Linux can check them.
//!
//! Debian packages a compiler together with the sources of the standard library, which is then
//! built for a target rustup need not know. Nothing is run: the hosted workflows do that.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::tools::{check, output, python_with, system_packages};
use crate::{root, target_dir};

const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const RUST_SOURCE: &str = "/usr/share/doc/rust-web-src";
const OBJCOPY: &str = "/usr/bin/llvm-objcopy";
const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "llvm"];

const WINDOWS: &str = "x86_64-pc-windows-msvc";
const MACOS: &str = "aarch64-apple-darwin";

/// Type-checks the program as Windows builds it: a standalone node, and with the distributed parts over TCP and QUIC. C
/// and C++ are left out: stand-ins take the compiler's place.
pub(crate) fn check_windows() -> Result<()> {
    compiler()?;
    ["standalone", "cpu,quic-distributed"].into_iter().try_for_each(check_windows_with)
}

fn check_windows_with(features: &str) -> Result<()> {
    let stand_in = |name: &str| files().join(name);
    let mut command = Command::new(CARGO);
    command.args(["check", "-p", "mlxcel", "--no-default-features", "--features", features]);
    let target = WINDOWS.replace('-', "_");
    command.env(format!("CC_{target}"), stand_in("stub-cc"));
    command.env(format!("CXX_{target}"), stand_in("stub-cc"));
    command.env(format!("AR_{target}"), stand_in("stub-ar"));
    check(for_target(&mut command, WINDOWS))
}

/// Compiles and links the program for macOS against the Metal build of MLX, C++ included.
///
/// Zig brings the compiler, linker and C library; the frameworks it lacks are met by lists of
/// the symbols used. Shared libraries among the dependencies are linked with a `rust-objcopy`, which
/// Debian's compiler leaves out: LLVM's own stands in.
pub(crate) fn link_macos() -> Result<()> {
    compiler()?;
    let python = python_with(&files().join("requirements.txt"))?;
    let bin = python.with_file_name("");
    let path = output(Command::new("sh").args(["-c", "printf %s \"$PATH\""]))?;
    let mut command = Command::new(bin.join("cargo-zigbuild"));
    command
        .args(["zigbuild", "-p", "mlxcel", "--no-default-features", "--features", "metal,quic-distributed"])
        .env("PATH", format!("{}:{}:{path}", bin.display(), files().display()))
        .env("CARGO", CARGO)
        .env("CARGO_PROFILE_DEV_STRIP", "none")
        .env("RUSTFLAGS", format!("-Lframework={}", files().join("frameworks").display()));
    check(for_target(&mut command, MACOS))
}

fn for_target<'a>(command: &'a mut Command, target: &str) -> &'a mut Command {
    command
        .args(["-Zbuild-std=std,panic_abort", "--target", target])
        // Nothing of it is run, so optimising it would be a waste.
        .args(["--config", "profile.dev.opt-level=0", "--config", "profile.dev.debug=false"])
        .args(["--config", "profile.dev.package.\"*\".opt-level=0"])
        .args(["--config", "profile.dev.package.mlxcel-kernels.opt-level=0"])
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        // Another compiler than the one that runs us: its artefacts stay apart.
        .env("CARGO_TARGET_DIR", target_dir().join("platforms"))
        .env_remove("RUSTUP_TOOLCHAIN")
}

fn compiler() -> Result<()> {
    system_packages(&[RUSTC, CARGO, RUST_SOURCE, OBJCOPY], PACKAGES)
}

fn files() -> PathBuf {
    root().join("xtask/platforms")
}
