//! Small private files, written whole or not at all.
//!
//! Knows nothing of what is in them; `identity` and `claim` do.

use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::sys;

/// What happens when the file is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// The new content takes its place.
    Replace,
    /// The write fails with `AlreadyExists`.
    Keep,
}

/// Writes `content` to `dir/name`, readable by its owner only. A crash leaves the old content or
/// the new, never a mixture.
pub(crate) fn write_private(dir: &Path, name: &str, content: &[u8], existing: Existing) -> io::Result<()> {
    sys::create_private_dir(dir)?;
    let mut file = NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    let target = dir.join(name);
    match existing {
        Existing::Replace => file.persist(&target),
        Existing::Keep => file.persist_noclobber(&target),
    }
    .map_err(|failed| failed.error)?;
    sys::make_private(&target)?;
    sys::sync_dir(dir)
}
