//! Worker processes on Unix: process groups, signals and descriptors.
//!
//! Mechanism only: `supervisor` decides when to start and what an exit means.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use tokio::process::Command;

/// Keeps the terminal's ctrl-c from the worker, so that its node can drain it.
pub(crate) fn detach_from_terminal(command: &mut Command) {
    command.process_group(0);
}

/// How a process ended, for people: `killed by signal 9`, `exited with code 1`.
pub(crate) fn describe_exit(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("exited with code {code}"),
        (None, None) => "ended".into(),
    }
}

/// This process' standard output, for frames only: whatever a library prints there from now on
/// goes to standard error.
pub(crate) fn claim_stdout() -> io::Result<File> {
    io::stdout().flush()?;
    let own = io::stdout().as_fd().try_clone_to_owned()?;
    // SAFETY: replaces the descriptor behind a number; both numbers are standard streams, which
    // nothing in the process owns or closes.
    if unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(own.into())
}

/// Ends this process at once: no destructor runs, no buffer is flushed.
pub(crate) fn end_process(code: u8) -> ! {
    // SAFETY: takes no pointer and does not return.
    unsafe { libc::_exit(code.into()) }
}
