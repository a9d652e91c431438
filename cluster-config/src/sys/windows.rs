//! File protection by inheritance: `%LOCALAPPDATA%` is open to its user only.

use std::io;
use std::path::Path;

/// Creates `dir` and its parents, which inherit the access list of the user's profile.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)
}

/// Does nothing: the file inherits its directory's access list. Reports that no one else could
/// reach it.
pub(crate) fn make_private(_file: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Does nothing: NTFS journals renames, and directories cannot be flushed.
pub(crate) fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}
