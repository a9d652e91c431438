//! A lock file that several processes agree on.
//!
//! Holds an advisory lock of the operating system, which ends with the process that took it, so
//! a killed download leaves nothing locked. What the lock protects is for the caller to say.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct DiskLock {
    _file: File,
}

const POLL: Duration = Duration::from_millis(50);

impl DiskLock {
    /// Waits for the lock at `path`, making the file and its directories as needed.
    ///
    /// `on_wait` is called once, when another process has it. Polls rather than blocks, so that a
    /// caller that gives up leaves no thread behind.
    pub(crate) async fn acquire(path: &Path, on_wait: impl FnOnce()) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let mut on_wait = Some(on_wait);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) => {}
            }
            if let Some(tell) = on_wait.take() {
                tell();
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn a_second_holder_waits_for_the_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/lock");
        let first = DiskLock::acquire(&path, || panic!("nobody holds it")).await;
        let first = first.expect("the lock is free");
        let waited = AtomicBool::new(false);
        let second = DiskLock::acquire(&path, || waited.store(true, Ordering::SeqCst));
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        assert!(waited.load(Ordering::SeqCst));
        drop(first);
        second.await.expect("the lock is free again");
    }
}
