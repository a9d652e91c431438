//! What differs between operating systems in running worker processes.
//!
//! Mechanism only: `supervisor` decides when to start and what an exit means.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{describe_exit, detach_from_terminal};
#[cfg(windows)]
pub(crate) use windows::{describe_exit, detach_from_terminal};
