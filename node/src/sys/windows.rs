//! Worker processes on Windows: console groups and exit codes.
//!
//! Mechanism only: `supervisor` decides when to start and what an exit means. No job object is
//! needed: a worker ends when its standard input does, however its node died.

use std::fs::File;
use std::io::{self, Write};
use std::os::windows::io::AsHandle;
use std::process::ExitStatus;

use tokio::process::Command;

/// Keeps the console's ctrl-c from the worker, so that its node can drain it.
pub(crate) fn detach_from_terminal(command: &mut Command) {
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
}

/// How a process ended, for people: `exited with code 1`; codes of the system in hexadecimal.
pub(crate) fn describe_exit(status: ExitStatus) -> String {
    match status.code() {
        Some(code @ 0..=255) => format!("exited with code {code}"),
        Some(code) => format!("exited with code {code:#010x}"),
        None => "ended".into(),
    }
}

/// This process' standard output, for frames.
pub(crate) fn claim_stdout() -> io::Result<File> {
    io::stdout().flush()?;
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

/// Ends this process.
pub(crate) fn end_process(code: u8) -> ! {
    std::process::exit(code.into())
}

const CREATE_NEW_PROCESS_GROUP: u32 = 0x0000_0200;
