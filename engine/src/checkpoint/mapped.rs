//! A file mapped into memory, read only.
//!
//! The single place that maps. It does not know what the bytes mean; readers check every
//! length and offset against `bytes().len()` before they slice.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::error::CheckpointError;

/// A read-only mapping of a whole file.
pub(super) struct MappedFile {
    path: Arc<Path>,
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps `path`; an empty file is refused, since no model file is empty.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, CheckpointError> {
        let read = |source| CheckpointError::read(path, source);
        let file = File::open(path).map_err(read)?;
        let meta = file.metadata().map_err(read)?;
        if !meta.is_file() {
            return Err(read(std::io::Error::other("not a regular file")));
        }
        if meta.len() == 0 {
            return Err(CheckpointError::damaged(path, "it is empty"));
        }
        // SAFETY: the mapping is private and read only, and nothing here writes to it. Another
        // process that changes or truncates the file while it is mapped breaks the promise; model
        // files are replaced by rename, never rewritten in place, as every model store does.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(read)?;
        Ok(Arc::new(Self { path: path.into(), map }))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(super) fn path(&self) -> &Arc<Path> {
        &self.path
    }
}
