//! Sampling as part of a step's graph: the choice of every row's token, made on MLX's CPU stream.
//!
//! The tokens exist as an array before anyone has read a logit, so the next step can be launched on top of
//! them. What a choice is, `sampling` says.

use std::sync::{Arc, Mutex, PoisonError};

use mlxcel_mlx_bridge::{Array, Dtype, Result, host_op_single};

use crate::sampling::{Choice, SamplingError, SharedRow, choose_rows};

/// The choices of a step, once its ids are evaluated; one a row, taken once.
#[derive(Clone, Default)]
pub(super) struct StepChoices(Arc<Mutex<Vec<RowChoice>>>);

/// What became of one row.
pub(super) type RowChoice = std::result::Result<Choice, SamplingError>;

impl StepChoices {
    /// Takes them all, in the order of the rows.
    pub(super) fn take(&self) -> Vec<RowChoice> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, choices: Vec<RowChoice>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = choices;
    }
}

/// Token ids, u32 `[rows]`, chosen from `logits`, `[rows, vocabulary]`, when they are evaluated. A row that
/// cannot be sampled has id 0, and its error among the choices.
///
/// Rows' states move on in the order in which steps run; a sequence is in one step at a time.
pub(super) fn sample(logits: &Array, rows: Vec<Option<SharedRow>>) -> Result<(Array, StepChoices)> {
    let logits = logits.astype(Dtype::Float32)?;
    let choices = StepChoices::default();
    let results = choices.clone();
    let shape = [i32::try_from(rows.len()).unwrap_or(i32::MAX)];
    let ids = host_op_single("sample", &[&logits], &shape, Dtype::Uint32, move |inputs, output| {
        let [logits] = inputs else { return Err("the operation takes logits".to_owned()) };
        let chosen = choose_rows(&rows, logits.as_f32()?);
        for (id, choice) in output.as_u32_mut()?.iter_mut().zip(&chosen) {
            *id = choice.as_ref().map_or(0, |choice| choice.token);
        }
        results.set(chosen);
        Ok(())
    })?;
    Ok((ids, choices))
}
