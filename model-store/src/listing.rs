//! What is stored on this host, without asking anyone.
//!
//! Reads the two caches; changes nothing. A model that is not complete is not listed, since it
//! could not be run either.

use std::path::{Path, PathBuf};

use crate::alias;
use crate::hub::cache::{file_names, is_commit, is_whole, repo_of_folder};

/// One model that can be used without a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredModel {
    /// What to type to use it.
    pub name: String,
    /// Bytes of its files on disk.
    pub size_bytes: u64,
    /// Its directory, or its `.gguf` file.
    pub path: PathBuf,
    /// Where it came from.
    pub source: Source,
}

/// Where a stored model came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A Python package, by an alias.
    Package {
        /// Package name.
        package: String,
        /// Package version.
        version: String,
    },
    /// A hub repository.
    Hub {
        /// The commit the files are of.
        commit: String,
    },
}

pub(crate) fn packages(cache_dir: &Path) -> Vec<StoredModel> {
    let stored = alias::aliases().iter().filter_map(|alias| {
        let path = cache_dir.join(alias.name).join(alias.package.model_file());
        let size_bytes = path.metadata().ok()?.len();
        Some(StoredModel {
            name: alias.name.to_owned(),
            size_bytes,
            path,
            source: Source::Package {
                package: alias.package.name.to_owned(),
                version: alias.package.version.to_owned(),
            },
        })
    });
    stored.collect()
}

pub(crate) fn hub_models(hub_cache_dir: &Path) -> Vec<StoredModel> {
    let mut found = Vec::new();
    for (folder, path) in directories(hub_cache_dir) {
        let Some(repo) = repo_of_folder(&folder) else {
            continue;
        };
        let main = std::fs::read_to_string(path.join("refs/main")).unwrap_or_default();
        for (commit, snapshot) in directories(&path.join("snapshots")) {
            if !is_commit(&commit) {
                continue;
            }
            let revision = match main.trim() == commit {
                true => String::new(),
                false => format!("@{commit}"),
            };
            found.extend(models_of_snapshot(&repo, &revision, &commit, &snapshot));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn models_of_snapshot(repo: &str, revision: &str, commit: &str, snapshot: &Path) -> Vec<StoredModel> {
    let names = file_names(snapshot);
    let size = |name: &String| snapshot.join(name).metadata().map_or(0, |m| m.len());
    let entry = |name: String, size_bytes, path| StoredModel {
        name,
        size_bytes,
        path,
        source: Source::Hub { commit: commit.to_owned() },
    };
    let mut models = Vec::new();
    let has_safetensors = names.iter().any(|name| name.ends_with(".safetensors"));
    if has_safetensors && is_whole(snapshot) {
        let total = names.iter().map(size).sum();
        let name = format!("{repo}{revision}");
        models.push(entry(name, total, snapshot.to_owned()));
    }
    for file in names.iter().filter(|name| name.ends_with(".gguf")) {
        let name = format!("{repo}/{file}{revision}");
        models.push(entry(name, size(file), snapshot.join(file)));
    }
    models
}

fn directories(parent: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    named.filter(|(_, path)| path.is_dir()).collect()
}
