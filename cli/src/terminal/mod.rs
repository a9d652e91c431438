//! The terminal: progress bars, and conversations.
//!
//! Everything for people goes to standard error, so that standard output can be piped.

mod progress;
mod repl;

pub(crate) use progress::Progress;
pub(crate) use repl::{HELP, Input, Repl};
