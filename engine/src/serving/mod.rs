//! One loaded model as an `Engine`: a thread that plans, computes and samples, and one beside it
//! that tells.
//!
//! The first owns every array, the second every request's text and events. Requests are tokenised on
//! the caller's thread; what to compute is the scheduler's decision, how is the model's.

mod answer;
mod command;
mod compiling;
mod delivery;
mod draft;
mod drafter;
mod executor;
mod exporting;
mod guessing;
mod importing;
mod lead;
mod load;
mod opening;
mod passing;
mod preparing;
mod recorder;
mod repetition;
mod sampled;
mod sequence;
mod speculation;
mod step;
mod stream;
mod thread;

pub(crate) use executor::StepExecutor;
pub use lead::load_leader;
pub use load::{LoadError, load};
