//! Which tokens the next step computes.
//!
//! Pure code: requests and sampled tokens in, `StepPlan`s out. Knows neither tensors nor clocks;
//! `serving` executes its plans.

mod plan;
mod scheduler;

pub use plan::{SequenceId, Span, StepPlan, Token};
pub use scheduler::{Admission, AdmissionError, Scheduler, SchedulerLimits};
