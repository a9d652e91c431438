//! Linking a cached blob to its name in a snapshot, as each platform allows.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::link_blob;
#[cfg(windows)]
pub(crate) use windows::link_blob;
