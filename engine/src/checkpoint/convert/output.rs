//! A directory that appears whole or not at all.
//!
//! Files are written into a hidden sibling, which is renamed when everything is on disk and
//! removed otherwise. It does not know what the files hold.

use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::error::WriteError;

/// Where bytes of a file go.
pub(super) trait Output: Write + Seek {}

impl<T: Write + Seek> Output for T {}

/// Creates a file; replaced in tests to fail.
pub(super) type Create = fn(&Path) -> io::Result<Box<dyn Output>>;

/// The real one.
pub(super) fn create_file(path: &Path) -> io::Result<Box<dyn Output>> {
    Ok(Box::new(fs::File::create_new(path)?))
}

/// A directory being written.
pub(super) struct PartialDirectory {
    target: PathBuf,
    partial: PathBuf,
    create: Create,
    needed_bytes: u64,
    finished: bool,
}

impl PartialDirectory {
    pub(super) fn create(target: &Path, needed_bytes: u64, create: Create) -> Result<Self, WriteError> {
        let occupied = fs::read_dir(target).map(|mut entries| entries.next().is_some());
        // An empty directory may be taken over; a file may not.
        if occupied.unwrap_or(target.exists()) {
            return Err(WriteError::Exists { path: target.to_path_buf() });
        }
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let partial = parent.join(format!(".{name}.partial-{}", std::process::id()));
        let directory = Self { target: target.to_path_buf(), partial, create, needed_bytes, finished: false };
        fs::create_dir_all(&directory.partial).map_err(|error| directory.error(&directory.partial, error))?;
        Ok(directory)
    }

    /// A file of the directory, to be written in any order.
    pub(super) fn open(&self, name: &str) -> Result<Box<dyn Output>, WriteError> {
        let path = self.partial.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| self.error(parent, error))?;
        }
        (self.create)(&path).map_err(|error| self.error(&path, error))
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let mut file = self.open(name)?;
        self.write_at(file.as_mut(), 0, bytes)
    }

    pub(super) fn write_at(
        &self,
        file: &mut dyn Output,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        let written = file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes));
        written.map_err(|error| self.error(&self.target, error))
    }

    /// Brings everything to disk and gives the directory its name.
    pub(super) fn finish(mut self) -> Result<(), WriteError> {
        self.sync(&self.partial).map_err(|error| self.error(&self.target, error))?;
        if self.target.is_dir() {
            fs::remove_dir(&self.target).map_err(|error| self.error(&self.target, error))?;
        }
        fs::rename(&self.partial, &self.target).map_err(|error| self.error(&self.target, error))?;
        self.finished = true;
        Ok(())
    }

    fn sync(&self, directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            match path.is_dir() {
                true => self.sync(&path)?,
                // Windows flushes only files opened for writing.
                false => fs::OpenOptions::new().write(true).open(path)?.sync_all()?,
            }
        }
        Ok(())
    }

    fn error(&self, path: &Path, error: io::Error) -> WriteError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                WriteError::NoSpace { path: self.target.clone(), needed_bytes: self.needed_bytes }
            }
            _ => WriteError::write(path, error),
        }
    }
}

impl Drop for PartialDirectory {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing better can be done about a failure to tidy up after a failure.
            _ = fs::remove_dir_all(&self.partial);
        }
    }
}
