//! A directory of config.json and safetensors files.
//!
//! Finds the files as mlx-lm does: the shards of `model.safetensors.index.json`, else
//! `model*.safetensors`, else any `*.safetensors`. Reads headers only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::CheckpointError;
use super::header::read_header;
use super::mapped::MappedFile;
use super::stored::Stored;

const INDEX: &str = "model.safetensors.index.json";
const CONFIG: &str = "config.json";

/// What a model directory holds.
pub(super) enum Contents {
    /// Safetensors files.
    Safetensors,
    /// Exactly one GGUF file and no safetensors.
    Gguf(PathBuf),
}

/// Looks at the names in a directory.
pub(super) fn contents(directory: &Path) -> Result<Contents, CheckpointError> {
    let mut ggufs = files_with_extension(directory, "gguf")?;
    let has_safetensors =
        directory.join(INDEX).exists() || !files_with_extension(directory, "safetensors")?.is_empty();
    match (has_safetensors, ggufs.len()) {
        (false, 1) => Ok(Contents::Gguf(ggufs.remove(0))),
        (false, count) if count > 1 => Err(CheckpointError::unsupported(
            directory,
            format!("holds {count} .gguf files; name the one to use"),
        )),
        _ => Ok(Contents::Safetensors),
    }
}

/// Reads config.json.
pub(super) fn read_config(directory: &Path) -> Result<Value, CheckpointError> {
    let path = directory.join(CONFIG);
    let config = read_json(&path, directory, "it is not a model directory")?;
    if config.is_object() {
        return Ok(config);
    }
    Err(CheckpointError::damaged(&path, "it is not a JSON object"))
}

/// Every tensor of the directory by name.
pub(super) fn read_tensors(directory: &Path) -> Result<BTreeMap<String, Stored>, CheckpointError> {
    let index = read_index(directory)?;
    let shards: BTreeSet<PathBuf> = match &index {
        Some(map) => map.values().map(|shard| directory.join(shard)).collect(),
        None => loose_shards(directory)?.into_iter().collect(),
    };
    let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
    for shard in &shards {
        for (name, stored) in read_header(&MappedFile::open(shard)?)? {
            if let Some(other) = tensors.insert(name.clone(), stored) {
                let what = format!("it and {} both hold tensor {name}", other.path().display());
                return Err(CheckpointError::damaged(shard, what));
            }
        }
    }
    for (name, shard) in index.iter().flatten() {
        if !tensors.contains_key(name) {
            let what = format!("it lists tensor {name} in {shard}, which does not hold it");
            return Err(CheckpointError::damaged(&directory.join(INDEX), what));
        }
    }
    Ok(tensors)
}

/// Tensor to shard file name, or `None` without an index.
fn read_index(directory: &Path) -> Result<Option<BTreeMap<String, String>>, CheckpointError> {
    let path = directory.join(INDEX);
    if !path.exists() {
        return Ok(None);
    }
    let index = read_json(&path, directory, "")?;
    let Some(weight_map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(CheckpointError::damaged(&path, "it has no weight_map"));
    };
    let mut map = BTreeMap::new();
    for (name, shard) in weight_map {
        let Some(shard) = shard.as_str().filter(|shard| is_plain_file_name(shard)) else {
            return Err(CheckpointError::damaged(
                &path,
                format!("tensor {name} is in {shard}, not in a file beside it"),
            ));
        };
        if !directory.join(shard).exists() {
            return Err(CheckpointError::MissingFile {
                directory: directory.to_path_buf(),
                file: shard.to_owned(),
                mend: format!("{INDEX} names it; download the model again"),
            });
        }
        map.insert(name.clone(), shard.to_owned());
    }
    Ok(Some(map))
}

/// An index from elsewhere must not reach outside its directory.
fn is_plain_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name) && !name.contains(['/', '\\', ':'])
}

fn loose_shards(directory: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let all = files_with_extension(directory, "safetensors")?;
    let is_model = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("model"))
    };
    let named: Vec<PathBuf> = all.iter().filter(|path| is_model(path)).cloned().collect();
    let shards = if named.is_empty() { all } else { named };
    if shards.is_empty() {
        return Err(CheckpointError::MissingFile {
            directory: directory.to_path_buf(),
            file: "model.safetensors".into(),
            mend: "it holds no weights; download the model again".into(),
        });
    }
    Ok(shards)
}

fn files_with_extension(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, CheckpointError> {
    let read = |source| CheckpointError::read(directory, source);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_json(path: &Path, directory: &Path, mend: &str) -> Result<Value, CheckpointError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(CheckpointError::MissingFile {
                directory: directory.to_path_buf(),
                file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                mend: mend.to_owned(),
            });
        }
        Err(error) => return Err(CheckpointError::read(path, error)),
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| CheckpointError::damaged(path, format!("it is not JSON ({error})")))
}
