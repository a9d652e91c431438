//! One repository's place in a Hugging Face cache.
//!
//! The layout is Python's `huggingface_hub`'s: `blobs/<etag>`, `snapshots/<commit>/<file>` leading
//! to them, `refs/<revision>` naming a commit. Downloads nothing; `fetch` fills the blobs.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::select::choose;
use crate::error::ResolveError;
use crate::reference::HubRef;
use crate::sys;

/// Paths of one repository in the cache.
#[derive(Debug, Clone)]
pub(crate) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(crate) fn new(hub_cache_dir: &Path, want: &HubRef) -> Self {
        let folder = folder_name(&want.repo);
        Self { root: hub_cache_dir.join(&folder), locks: hub_cache_dir.join(".locks").join(folder) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn locks(&self) -> &Path {
        &self.locks
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    pub(crate) fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Whether a file of a commit is here; a link to a missing blob does not count.
    pub(crate) fn has(&self, commit: &str, file: &str) -> bool {
        self.snapshot(commit).join(file).exists()
    }

    /// The path of a complete copy of what is wanted.
    pub(crate) fn find(&self, want: &HubRef) -> Option<PathBuf> {
        let snapshot = self.snapshot(&self.commit(want.revision_or_main())?);
        let choice = choose(&file_names(&snapshot), want).ok()?;
        match choice.model {
            Some(file) => Some(snapshot.join(file)),
            None => is_whole(&snapshot).then_some(snapshot),
        }
    }

    fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = std::fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Makes a file of a commit lead to its blob.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), ResolveError> {
        let pointer = self.snapshot(commit).join(file);
        let depth = 2 + file.split('/').count() - 1;
        let mut relative: PathBuf = std::iter::repeat_n("..", depth).collect();
        relative.push("blobs");
        relative.push(etag);
        link_at(&relative, &self.blob(etag), &pointer)
            .map_err(|cause| ResolveError::io("link", &pointer, cause))
    }

    /// Makes a revision name a commit; readers see the old one or the new one.
    pub(crate) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), ResolveError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        replace_file(&path, commit.as_bytes())
            .map_err(|cause| ResolveError::write(&path, commit.len() as u64, cause))
    }
}

/// `models--owner--name`.
pub(crate) fn folder_name(repo: &str) -> String {
    format!("models--{}", repo.replace('/', "--"))
}

/// The repository a folder of the cache is for.
pub(crate) fn repo_of_folder(folder: &str) -> Option<String> {
    let (owner, name) = folder.strip_prefix("models--")?.split_once("--")?;
    Some(format!("{owner}/{name}"))
}

pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// Names, relative to `snapshot` and with `/`, of the files whose contents are here.
pub(crate) fn file_names(snapshot: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut pending = vec![(snapshot.to_owned(), String::new())];
    while let Some((dir, prefix)) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let path = entry.path();
            if path.is_dir() {
                pending.push((path, format!("{prefix}{name}/")));
            } else if path.exists() {
                names.push(format!("{prefix}{name}"));
            }
        }
    }
    names.sort();
    names
}

/// Whether a safetensors snapshot has its configuration and every shard its index names.
pub(crate) fn is_whole(snapshot: &Path) -> bool {
    let names: BTreeSet<String> = file_names(snapshot).into_iter().collect();
    if !names.contains("config.json") {
        return false;
    }
    let index = names.iter().find(|name| name.ends_with(".safetensors.index.json"));
    let Some(index) = index else {
        // A shard says how many there are: without their index the set cannot be whole.
        return !names.iter().any(|name| name.contains("-of-0"));
    };
    let shards = std::fs::read(snapshot.join(index))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .and_then(|index| index.get("weight_map")?.as_object().cloned());
    let have = |shard: &Value| shard.as_str().is_some_and(|name| names.contains(name));
    shards.is_some_and(|shards| shards.values().all(have))
}

fn link_at(relative: &Path, blob: &Path, pointer: &Path) -> io::Result<()> {
    if let Some(parent) = pointer.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match sys::link_blob(relative, blob, pointer) {
        // Another process linked it first, or an interrupted one left a dangling link.
        Err(_) if pointer.symlink_metadata().is_ok() && !pointer.exists() => {
            std::fs::remove_file(pointer)?;
            sys::link_blob(relative, blob, pointer)
        }
        Err(_) if pointer.exists() => Ok(()),
        other => other,
    }
}

fn replace_file(path: &Path, contents: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    io::Write::write_all(&mut file, contents)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, contents) in files {
            std::fs::write(dir.path().join(name), contents).expect("a file");
        }
        dir
    }

    #[test]
    fn folders_and_repositories_name_each_other() {
        assert_eq!(folder_name("o/n-a"), "models--o--n-a");
        assert_eq!(repo_of_folder("models--o--n--a").as_deref(), Some("o/n--a"));
        assert_eq!(repo_of_folder("datasets--o--n"), None);
    }

    #[test]
    fn a_snapshot_without_a_shard_its_index_names_is_not_whole() {
        let index = r#"{"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}"#;
        let dir = snapshot(&[
            ("config.json", "{}"),
            ("model.safetensors.index.json", index),
            ("model-1.safetensors", ""),
        ]);
        assert!(!is_whole(dir.path()));
        std::fs::write(dir.path().join("model-2.safetensors"), "").expect("a file");
        assert!(is_whole(dir.path()));
    }

    #[test]
    fn a_shard_without_an_index_is_not_whole() {
        let dir = snapshot(&[("config.json", "{}"), ("model-00001-of-00002.safetensors", "")]);
        assert!(!is_whole(dir.path()));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_whose_blob_is_gone_is_made_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let want = HubRef { repo: "o/n".to_owned(), revision: None, file: None };
        let cache = RepoCache::new(dir.path(), &want);
        let commit = "0".repeat(40);
        cache.link(&commit, "a/b.json", "old").expect("a dangling link");
        assert!(!cache.has(&commit, "a/b.json"));
        std::fs::create_dir_all(cache.blob("new").parent().expect("blobs")).expect("blobs");
        std::fs::write(cache.blob("new"), "x").expect("a blob");
        cache.link(&commit, "a/b.json", "new").expect("a good link");
        assert!(cache.has(&commit, "a/b.json"));
    }
}
