//! One worker process a device, kept running.
//!
//! Restarts what crashes, with back-off, loads its models again, and ends its requests with a
//! typed failure. Knows nothing of routers; `host` decides what is loaded and which worker serves.

mod ledger;
mod lifecycle;
mod process;
mod pulse;
mod slot;

pub use process::WorkerProgram;
pub(crate) use pulse::{Bounds, HANG_TIMEOUT};
pub(crate) use slot::Slot;
