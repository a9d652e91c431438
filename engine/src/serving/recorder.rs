//! What the step thread notes for a trace: which part of a step began and ended when.
//!
//! Costs a comparison where no trace is wanted. Writes nothing: the delivery thread does, off the
//! path of the step.

use std::time::Instant;

use crate::trace::{Figures, TimedSpan};

/// The notes of the step thread since they were last taken.
#[derive(Default)]
pub(super) struct Recorder {
    on: bool,
    notes: Notes,
}

/// What happened in a step, and the load after it.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) spans: Vec<TimedSpan>,
    pub(super) load: Option<(Instant, Figures)>,
}

impl Recorder {
    pub(super) fn new(on: bool) -> Self {
        Self { on, notes: Notes::default() }
    }

    /// The beginning of a span, for `end`.
    pub(super) fn begin(&self) -> Option<Instant> {
        self.on.then(Instant::now)
    }

    /// Ends a span that `begin` began.
    pub(super) fn end(&mut self, name: &'static str, begin: Option<Instant>, figures: impl Into<Figures>) {
        if let Some(begin) = begin {
            let (end, figures) = (Instant::now(), figures.into());
            self.notes.spans.push(TimedSpan { name, begin, end, figures });
        }
    }

    /// Notes what the engine holds now.
    pub(super) fn load(&mut self, figures: impl FnOnce() -> Figures) {
        if self.on && !self.notes.spans.is_empty() {
            self.notes.load = Some((Instant::now(), figures()));
        }
    }

    /// Takes the notes.
    pub(super) fn take(&mut self) -> Option<Notes> {
        (!self.notes.spans.is_empty()).then(|| std::mem::take(&mut self.notes))
    }
}
