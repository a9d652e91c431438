//! Worker processes on Unix: process groups and signals.
//!
//! Mechanism only: `supervisor` decides when to start and what an exit means.

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
