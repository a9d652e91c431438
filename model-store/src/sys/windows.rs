//! Windows: a symbolic link where the user may make one, else a hard link, else a copy.
//!
//! Symbolic links need developer mode or elevation; hard links need NTFS.

use std::io;
use std::path::Path;

/// Makes `pointer` lead to the blob at `relative` (seen from the pointer's directory).
pub(crate) fn link_blob(relative: &Path, blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(relative, pointer)
        .or_else(|_| std::fs::hard_link(blob, pointer))
        .or_else(|_| std::fs::copy(blob, pointer).map(|_| ()))
}
