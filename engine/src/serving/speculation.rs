//! Guessing in the engine's step loop: who guesses in the next step, and what a row of a step costs.
//!
//! `Guessing` decides for one sequence; the scheduler drops guesses for which it has no room.

use std::time::Instant;

use super::drafter::{Drafter, Wanted};
use super::guessing::{Circumstances, Guess};
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
    /// Tells the scheduler what may follow each sequence whose next token is known.
    pub(super) fn guess(&mut self) {
        let ready = self.scheduler.ready_to_guess();
        let (rows, draft_cost) = (self.scheduler.running(), self.draft_cost());
        let mut wanted = Vec::new();
        for name in ready {
            let Some(sequence) = self.sequences.get_mut(&name) else { continue };
            let room = sequence.room_for_guesses();
            let Some(guessing) = &mut sequence.guessing else { continue };
            match guessing.guess(Circumstances { cost: &self.meter.cost, rows, draft_cost }, room) {
                Guess::Tokens(guesses) => self.scheduler.guess(name, guesses),
                Guess::Drafted(guesses) => {
                    let tokens = self.scheduler.tokens_of(name).to_vec();
                    wanted.push(Wanted { sequence: name, tokens, guesses });
                }
            }
        }
        self.draft(&wanted);
    }

    /// Has the draft model guess. One that fails is given up: it only ever helps.
    fn draft(&mut self, wanted: &[Wanted]) {
        let Some(drafter) = &mut self.drafter else { return };
        let sequences = &self.sequences;
        drafter.retain(|name| sequences.contains_key(&name));
        if wanted.iter().all(|wanted| wanted.guesses == 0) {
            return;
        }
        let begin = self.recorder.begin();
        match drafter.propose(wanted) {
            Ok(proposed) => {
                let guesses = proposed.values().map(|guesses| guesses.len() as u64).sum();
                self.recorder.end("draft", begin, [("guesses", guesses)]);
                proposed.into_iter().for_each(|(name, guesses)| self.scheduler.guess(name, guesses));
            }
            Err(error) => {
                tracing::warn!(%error, "the draft model failed; going on without it");
                self.drafter = None;
                self.sequences.values_mut().for_each(|sequence| sequence.stop_drafting());
            }
        }
    }

    /// What a step of the draft costs relative to one of the target. Until both were seen, a hopeful guess.
    fn draft_cost(&self) -> f64 {
        let draft = self.drafter.as_ref().and_then(Drafter::step_seconds);
        let target = self.meter.cost.seconds().filter(|seconds| *seconds > 0.0);
        draft.zip(target).map_or(UNKNOWN_DRAFT_COST, |(draft, target)| draft / target)
    }

    /// Whether what follows a span of a launched step is computed only when the step has been read: guesses have been
    /// checked then, or can be made.
    pub(super) fn waits(&self, span: &SampledSpan) -> bool {
        let (rows, draft_cost) = (self.scheduler.running(), self.draft_cost());
        let now = Circumstances { cost: &self.meter.cost, rows, draft_cost };
        let guessing = self.sequences.get(&span.sequence).and_then(|sequence| sequence.guessing.as_ref());
        guessing.is_some_and(|guessing| guessing.waits(now)) || !span.guesses.is_empty()
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

const UNKNOWN_DRAFT_COST: f64 = 0.1;
