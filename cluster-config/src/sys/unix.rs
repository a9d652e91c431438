//! File protection by mode bits.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Creates `dir` and its parents; those it creates are open to their owner only.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Leaves `file` readable and writable by its owner only. Returns whether others could reach it.
pub(crate) fn make_private(file: &Path) -> io::Result<bool> {
    let open_to_others = std::fs::metadata(file)?.permissions().mode() & 0o077 != 0;
    if open_to_others {
        std::fs::set_permissions(file, Permissions::from_mode(0o600))?;
    }
    Ok(open_to_others)
}

/// Makes a rename inside `dir` survive a power loss.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
