//! What differs between operating systems in worker processes, seen from both sides.
//!
//! Mechanism only: `supervisor` decides when to start and what an exit means.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{claim_stdout, describe_exit, detach_from_terminal, end_process};
#[cfg(windows)]
pub(crate) use windows::{claim_stdout, describe_exit, detach_from_terminal, end_process};
