//! What differs between operating systems: how a process is asked to end.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::Shutdown;
#[cfg(windows)]
pub(crate) use windows::Shutdown;
