//! The kernels' sources, and where the run-time compiler finds them.
//!
//! MLX hashes a kernel's whole text at every launch, so the text it sees is one `#include` of a file
//! written once to the user's cache folder; where none can be written, it is the sources themselves.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// Every source, in the order they build on each other.
const SOURCES: [&str; 8] = [
    include_str!("kernels/numeric.cuh"),
    include_str!("kernels/rows.cuh"),
    include_str!("kernels/qmm.cuh"),
    include_str!("kernels/tile.cuh"),
    include_str!("kernels/pointwise.cuh"),
    include_str!("kernels/rope.cuh"),
    include_str!("kernels/attend.cuh"),
    include_str!("kernels/sample.cuh"),
];

/// What a kernel's text begins with.
pub(super) fn header() -> String {
    let text = SOURCES.concat();
    let Some(folder) = cache_folder() else { return text };
    match unpack(&folder, &text) {
        Ok(path) => format!("#include \"{}\"\n", path.display()),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "CUDA sources could not be unpacked; launches take longer");
            text
        }
    }
}

/// The path of a file in `folder` that holds `text`, written now unless it is there.
fn unpack(folder: &Path, text: &str) -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let path = folder.join(format!("{:016x}.cuh", hasher.finish()));
    if std::fs::read_to_string(&path).is_ok_and(|held| held == text) {
        return Ok(path);
    }
    std::fs::create_dir_all(folder)?;
    // Another process may do the same now: each writes its own file, and a rename replaces whole files.
    let own = folder.join(format!("{}.part", std::process::id()));
    std::fs::write(&own, text)?;
    std::fs::rename(&own, &path)?;
    Ok(path)
}

fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME")
        .or_else(|| set("LOCALAPPDATA"))
        .or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(base.join("mlxcel").join("cuda"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_unpacked_once_and_mended_when_it_was_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = unpack(folder.path(), "one").expect("it is written");
        assert_eq!(unpack(folder.path(), "one").expect("it is there"), path);
        std::fs::write(&path, "damaged").expect("it can be written");
        assert_eq!(unpack(folder.path(), "one").expect("it is written again"), path);
        assert_eq!(std::fs::read_to_string(&path).expect("it can be read"), "one");
        assert_ne!(unpack(folder.path(), "two").expect("it is written"), path);
    }

    #[test]
    fn every_source_says_what_it_is_for() {
        for source in SOURCES {
            assert!(source.starts_with("// "), "{}", source.lines().next().unwrap_or_default());
        }
    }
}
