//! One loaded model as an `Engine`: a thread that plans, computes, samples and tells.
//!
//! The thread owns every array. Requests are tokenised on the caller's thread; what to compute is
//! the scheduler's decision, how is the model's.

mod command;
mod load;
mod sequence;
mod step;
mod thread;

pub use load::{LoadError, load};
