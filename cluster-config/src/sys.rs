//! File protection, one twin per family of operating systems.
//!
//! Mechanism only: `storage` decides what is private and when.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{create_private_dir, make_private, sync_dir};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{create_private_dir, make_private, sync_dir};
