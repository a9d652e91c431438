//! Sampling as part of a step's graph: the choice of every row's token, made on MLX's CPU stream.
//!
//! The tokens exist as an array before anyone has read a logit, so the next step can be launched on top of
//! them. What a choice is, `sampling` says.

use std::sync::{Arc, Mutex, PoisonError};

use mlxcel_mlx_bridge::{Array, Dtype, Result, host_op_single};

use crate::sampling::{RowChoice, SharedRow, choose_rows};
use crate::schedule::SampledSpan;

/// The choices of a step, once its ids are evaluated; those of one span together, taken once.
#[derive(Clone, Default)]
pub(super) struct StepChoices(Arc<Mutex<Vec<Vec<RowChoice>>>>);

impl StepChoices {
    /// Takes them all, in the order of the spans.
    pub(super) fn take(&self) -> Vec<Vec<RowChoice>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, choices: Vec<Vec<RowChoice>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = choices;
    }
}

/// Token ids, u32 `[rows]`, chosen from `logits`, `[rows, vocabulary]`, when they are evaluated. A row that
/// cannot be sampled, or lies behind a wrong guess, has id 0; errors are among the choices.
///
/// Rows' states move on in the order in which steps run; a sequence is in one step at a time.
pub(super) fn sample(
    logits: &Array,
    spans: &[SampledSpan],
    states: Vec<Option<SharedRow>>,
) -> Result<(Array, StepChoices)> {
    let logits = logits.astype(Dtype::Float32)?;
    let choices = StepChoices::default();
    let results = choices.clone();
    let rows = spans.iter().map(SampledSpan::rows).sum::<usize>();
    let shape = [i32::try_from(rows).unwrap_or(i32::MAX)];
    let spans = spans.to_vec();
    let ids = host_op_single("sample", &[&logits], &shape, Dtype::Uint32, move |inputs, output| {
        let [logits] = inputs else { return Err("the operation takes logits".to_owned()) };
        let chosen = choose(&spans, &states, logits.as_f32()?);
        let mut ids = output.as_u32_mut()?;
        for (span, choices) in spans.iter().zip(&chosen) {
            let (own, rest) = ids.split_at_mut(span.rows());
            own.fill(0);
            for (id, choice) in own.iter_mut().zip(choices) {
                *id = choice.as_ref().map_or(0, |choice| choice.token);
            }
            ids = rest;
        }
        results.set(chosen);
        Ok(())
    })?;
    Ok((ids, choices))
}

/// The choices of each span from `logits`, `[rows, vocabulary]`.
pub(super) fn choose(
    spans: &[SampledSpan],
    states: &[Option<SharedRow>],
    logits: &[f32],
) -> Vec<Vec<RowChoice>> {
    let rows: Vec<_> =
        spans.iter().zip(states).map(|(span, state)| (state.clone(), span.guesses.as_slice())).collect();
    choose_rows(&rows, logits)
}
