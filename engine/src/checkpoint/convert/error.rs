//! Why a checkpoint cannot be written.

use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::CheckpointError;

/// Writing a checkpoint failed; nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] CheckpointError),
    /// Something is in the way.
    #[error("{path} already exists; remove it or choose another directory", path = path.display())]
    Exists {
        /// The directory asked for.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("no space left for {path}, which needs {needed_bytes} bytes; free some or choose another disk", path = path.display())]
    NoSpace {
        /// The directory asked for.
        path: PathBuf,
        /// Bytes of all weights to be written.
        needed_bytes: u64,
    },
    /// The operating system refused to write.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The weights are quantised already, and would lose twice.
    #[error("{path} is already quantised; convert it without quantising, or from the original weights", path = path.display())]
    AlreadyQuantized {
        /// The source.
        path: PathBuf,
    },
    /// The quantisation asked for does not exist.
    #[error(
        "cannot quantise to {bits} bits in groups of {group_size}; bits are 2, 3, 4, 5, 6 or 8, groups 32, 64 or 128"
    )]
    Quantization {
        /// Bits asked for.
        bits: u32,
        /// Group size asked for.
        group_size: u32,
    },
    /// Weights are computed in F16, BF16 or F32 only.
    #[error("cannot write weights as {dtype}; choose F16, BF16 or F32")]
    Dtype {
        /// The type asked for.
        dtype: crate::checkpoint::TensorDtype,
    },
}

impl WriteError {
    pub(super) fn write(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_path_buf(), source }
    }
}
