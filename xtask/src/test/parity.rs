//! The reference logits the engine is held to, made by mlx-lm.
//!
//! Runs `parity/generate.py` once for each version of it. Judges nothing: the engine's tests do.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::tools::{check, python_with};
use crate::{root, target_dir};

/// Where the generated checkpoints and logits are.
pub(crate) fn dir() -> PathBuf {
    target_dir().join("parity")
}

/// Generates them, unless the generator is the one that made those that are there.
pub(crate) fn generate() -> Result<()> {
    let sources = root().join("parity");
    let stamp = dir().join("generated-by");
    let generator = generator_text().context("cannot read parity/")?;
    if std::fs::read(&stamp).is_ok_and(|have| have == generator) {
        return Ok(());
    }
    let python = python_with(&sources.join("requirements.txt"))?;
    check(
        Command::new(python).arg(sources.join("generate.py")).arg(dir()).env("PYTHONDONTWRITEBYTECODE", "1"),
    )?;
    std::fs::write(&stamp, generator).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Everything the result depends on: the scripts and the versions of their packages.
fn generator_text() -> std::io::Result<Vec<u8>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(root().join("parity"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "py" || extension == "txt") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut text = Vec::new();
    for path in paths {
        text.extend(std::fs::read(path)?);
    }
    Ok(text)
}
