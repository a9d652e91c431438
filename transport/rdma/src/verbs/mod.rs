//! Verbs: what is used of libibverbs, as owned Rust types. All `unsafe` towards it is here.
//!
//! A device is open as long as anything made on it lives. Knows no peers and no protocol: what is posted, and what its
//! completion means, the caller says.

mod abi;
mod completions;
mod device;
mod library;
mod queue_pair;
mod registration;

pub(crate) use completions::{Channel, Completed, CompletionQueue, Outcome};
pub(crate) use device::{Device, Port, find_port};
pub(crate) use queue_pair::{Local, QueuePair, Remote, SendRequest, Work};
pub(crate) use registration::{Registration, Rights};

use std::io;

/// What a function of libibverbs that returns an error number said.
fn checked(code: std::ffi::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.abs())) }
}
