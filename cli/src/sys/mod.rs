//! What differs between operating systems: how a process is asked to end.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::shutdown_requested;
#[cfg(windows)]
pub(crate) use windows::shutdown_requested;
