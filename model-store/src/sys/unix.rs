//! Unix: a relative symbolic link, so that the cache may be moved as a whole.

use std::io;
use std::path::Path;

/// Makes `pointer` lead to the blob at `relative` (seen from the pointer's directory).
pub(crate) fn link_blob(relative: &Path, _blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, pointer)
}
