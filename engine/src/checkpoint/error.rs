//! Why a checkpoint cannot be opened or read.
//!
//! Every text is one line that names the file, the rule it breaks and, where there is one, the mend.
//! Knows nothing of what the caller wanted the weights for.

use std::path::{Path, PathBuf};

use super::tensor::TensorDtype;

/// A checkpoint cannot be opened, or one of its tensors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Nothing exists at the path.
    #[error("no model at {path}; give a directory with config.json and *.safetensors, or a .gguf file", path = path.display())]
    NotFound {
        /// The path asked for.
        path: PathBuf,
    },
    /// The operating system refused to read a file or directory.
    #[error("cannot read {path}: {reason}; it must be a file that this user may read", path = path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A file that every checkpoint of this kind has is missing.
    #[error("{directory} has no {file}; {mend}", directory = directory.display())]
    MissingFile {
        /// Where it should be.
        directory: PathBuf,
        /// What is missing.
        file: String,
        /// What to do about it.
        mend: String,
    },
    /// A file is truncated or contradicts itself.
    #[error("{file} is damaged: {what}; download or convert the model again", file = file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The rule it breaks.
        what: String,
    },
    /// A file is sound but uses something this program does not support.
    #[error("{file} {what}", file = file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// What it uses, and what is supported instead.
        what: String,
    },
    /// The checkpoint lacks a tensor.
    #[error("{path} has no tensor {name}; the weights do not belong to this configuration, or a shard is missing", path = path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name} in {path} has shape {found:?}, expected {expected:?}; the weights do not belong to this configuration", path = path.display())]
    WrongShape {
        /// The file that holds it.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor has an element type that cannot be used in its place.
    #[error("tensor {name} in {path} has type {found}, expected {expected}", path = path.display())]
    WrongDtype {
        /// The file that holds it.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: TensorDtype,
        /// The types it may have, in words.
        expected: String,
    },
    /// The tokenizer or another text file of the checkpoint is unusable.
    #[error(transparent)]
    Text(#[from] crate::text::TextError),
}

impl CheckpointError {
    pub(super) fn damaged(file: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_path_buf(), what: what.into() }
    }

    pub(super) fn unsupported(file: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { file: file.to_path_buf(), what: what.into() }
    }

    pub(super) fn read(path: &Path, reason: std::io::Error) -> Self {
        Self::Read { path: path.to_path_buf(), reason }
    }
}
