//! Prefixes that are given away while they are computed.
//!
//! A request may have its prompt's blocks given to a sink. Which blocks a step fills is known when it is planned; the
//! cache gives them while the step is computed, or, on devices whose steps cannot be looked into, when it has been.

use std::ops::Range;
use std::sync::Arc;

use mlxcel_mlx_bridge::Result;

use super::thread::EngineThread;
use crate::blocks::BLOCK_TOKENS;
use crate::schedule::{SequenceId, StepPlan};
use crate::transfer::{BlockSink, Tap};

/// Blocks of a request's prompt that are given away.
pub(super) struct Export {
    /// Those that are still to be given.
    pub(super) blocks: Range<usize>,
    pub(super) sink: Arc<dyn BlockSink>,
}

/// A step's blocks that are given when it is done.
pub(super) type Taps = Vec<(SequenceId, Tap)>;

impl EngineThread {
    /// Has the cache give the blocks that `plan` fills; those that it can give only when the step is done.
    pub(super) fn tap(&mut self, plan: &StepPlan) -> Taps {
        if self.exports.is_empty() {
            return Vec::new();
        }
        let (mut sequences, mut taps) = (Vec::new(), Vec::new());
        for span in &plan.spans {
            let Some(export) = self.exports.get_mut(&span.sequence) else { continue };
            let full = (span.start + span.tokens.len()) / BLOCK_TOKENS;
            let given = export.blocks.start..full.min(export.blocks.end);
            if !given.is_empty() {
                export.blocks.start = given.end;
                sequences.push(span.sequence);
                taps.push(Tap { blocks: Arc::clone(&span.blocks), given, sink: Arc::clone(&export.sink) });
            }
        }
        let later = self.executor.tap(taps);
        // All or none: a cache gives on the way, or it does not.
        sequences.into_iter().zip(later).collect()
    }

    /// Gives the blocks of a step that is done and whose sequences have not been told yet. A sequence that has given its
    /// blocks up since computes them again: they are given then.
    ///
    /// # Errors
    /// When the cache cannot give them.
    pub(super) fn give(&mut self, taps: &Taps) -> Result<()> {
        for (name, tap) in taps {
            let held = tap.blocks().all(|(at, block)| self.scheduler.has_block(*name, at, block));
            match self.exports.get_mut(name) {
                Some(_) if held => self.executor.give(tap)?,
                Some(export) => export.blocks.start = export.blocks.start.min(tap.given.start),
                None => {}
            }
        }
        Ok(())
    }
}
