//! Which tokens the next step computes.
//!
//! Pure code: requests and sampled tokens in, `StepPlan`s out. Knows neither tensors nor clocks;
//! `serving` executes its plans.

mod admission;
mod imports;
mod member;
mod plan;
mod planning;
mod preemption;
mod queue;
mod scheduler;
mod service;
#[cfg(test)]
mod tests;

pub use admission::{Admission, AdmissionError, Client};
pub use imports::ImportRefusal;
pub use plan::{SampledSpan, SequenceId, Span, StepPlan, Token};
pub use scheduler::{Scheduler, SchedulerLimits};
