//! Guessing in the engine's step loop: who guesses in the next step, and what a row of a step costs.
//!
//! `Guessing` decides for one sequence; the scheduler drops guesses for which it has no room.

use std::time::Instant;

use super::thread::EngineThread;
use crate::schedule::SampledSpan;
use crate::speculation::StepCost;

/// What steps cost, learned as they are read.
pub(super) struct CostMeter {
    cost: StepCost,
    last_read: Instant,
}

impl CostMeter {
    pub(super) fn new() -> Self {
        Self { cost: StepCost::default(), last_read: Instant::now() }
    }
}

impl EngineThread {
    /// Tells the scheduler what may follow each sequence.
    pub(super) fn guess(&mut self) {
        let (cost, rows) = (&self.meter.cost, self.scheduler.running());
        for (name, sequence) in &self.sequences {
            if let Some(guessing) = &sequence.guessing {
                self.scheduler.guess(*name, guessing.guess(cost, rows, sequence.room_for_guesses()));
            }
        }
    }

    /// Whether what follows a span of a launched step is computed only when the step has been read: guesses have been
    /// checked then, or can be made.
    pub(super) fn waits(&self, span: &SampledSpan) -> bool {
        let guessing = self.sequences.get(&span.sequence).and_then(|sequence| sequence.guessing.as_ref());
        let hopes =
            guessing.is_some_and(|guessing| guessing.waits(&self.meter.cost, self.scheduler.running()));
        hopes || !span.guesses.is_empty()
    }

    /// Notes when a step was done that was launched `at` and decoded `rows` rows; steps run one after the other.
    pub(super) fn learn_cost(&mut self, rows: Option<usize>, at: Instant) {
        let now = Instant::now();
        if let Some(rows) = rows {
            let begun = at.max(self.meter.last_read);
            self.meter.cost.record(rows, now.saturating_duration_since(begun).as_secs_f64());
        }
        self.meter.last_read = now;
    }
}
