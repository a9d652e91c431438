//! A step's plan as the forward pass reads it: ids and positions, flat.
//!
//! Ids may still be on the device: those the step before samples are gathered there, so that a step
//! can be built before anyone has read the tokens of the last one.

use std::sync::Arc;

use mlxcel_mlx_bridge::{Array, Error, ErrorKind, Result};

use super::arithmetic::length;
use crate::schedule::{SampledSpan, SequenceId, StepPlan, Token};

/// A step's plan and what is derived from it once for all layers.
pub(crate) struct StepInputs {
    /// What to compute, shared with the operations that do.
    pub(crate) plan: Arc<StepPlan>,
    /// Tokens in the step.
    pub(crate) len: usize,
    /// Token ids, u32 `[len]`.
    pub(crate) ids: Array,
    /// Position of every token in its sequence: `[len]`.
    pub(crate) positions: Arc<[i32]>,
    /// The same positions as an array, for graph operations.
    pub(crate) position_array: Array,
}

/// Tokens a step has sampled, perhaps not computed yet.
pub(crate) struct SampledTokens {
    /// Whose they are, with the guesses they were checked against.
    pub(crate) spans: Vec<SampledSpan>,
    /// U32 `[rows]`: those of each span in turn.
    pub(crate) ids: Array,
}

impl SampledTokens {
    /// The row of the token that follows `sequence`. A sequence whose guesses are checked awaits nothing.
    fn row(&self, sequence: SequenceId) -> Option<usize> {
        let mut row = 0;
        for span in &self.spans {
            if span.sequence == sequence {
                return Some(row);
            }
            row += span.rows();
        }
        None
    }

    fn rows(&self) -> usize {
        self.spans.iter().map(SampledSpan::rows).sum()
    }
}

impl StepInputs {
    /// Inputs of `plan`, whose awaited tokens are among `previous`.
    pub(crate) fn new(plan: StepPlan, previous: Option<&SampledTokens>) -> Result<Self> {
        let positions = plan.positions();
        let position_array = Array::from_slice(&positions, &[length(positions.len())])?;
        let ids = ids(&plan, previous)?;
        let plan = Arc::new(plan);
        Ok(Self { len: positions.len(), plan, ids, positions: positions.into(), position_array })
    }
}

impl StepInputs {
    /// Inputs of `plan` for a stage that is given what another has made of the tokens.
    pub(crate) fn without_ids(plan: StepPlan) -> Result<Self> {
        let positions = plan.positions();
        let position_array = Array::from_slice(&positions, &[length(positions.len())])?;
        let ids = Array::from_slice::<u32>(&[], &[0])?;
        Ok(Self {
            len: positions.len(),
            plan: Arc::new(plan),
            ids,
            positions: positions.into(),
            position_array,
        })
    }
}

fn ids(plan: &StepPlan, previous: Option<&SampledTokens>) -> Result<Array> {
    let awaited = previous.map_or(0, SampledTokens::rows);
    let mut known = Vec::new();
    // Where each id lies in the awaited ones followed by the known ones.
    let mut rows = Vec::new();
    for (sequence, token) in plan.tokens() {
        match token {
            Token::Known(id) => {
                rows.push(awaited + known.len());
                known.push(id);
            }
            Token::Awaited => {
                let row = previous.and_then(|previous| previous.row(sequence));
                rows.push(row.ok_or_else(|| missing(sequence))?);
            }
        }
    }
    let host = || Array::from_slice(&known, &[length(known.len())]);
    let Some(previous) = previous.filter(|_| known.len() < rows.len()) else { return host() };
    if known.is_empty() && rows.iter().copied().eq(0..awaited) {
        return Ok(previous.ids.clone());
    }
    let all = if known.is_empty() {
        previous.ids.clone()
    } else {
        Array::concatenate(&[&previous.ids, &host()?], 0)?
    };
    let rows: Vec<u32> = rows.into_iter().map(|row| u32::try_from(row).unwrap_or(u32::MAX)).collect();
    all.take(&Array::from_slice(&rows, &[length(rows.len())])?, 0)
}

fn missing(sequence: SequenceId) -> Error {
    let message = format!("the step before sampled no token for sequence {}", sequence.0);
    Error { op: "step", kind: ErrorKind::Argument, operands: String::new(), message }
}
