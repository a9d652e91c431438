//! States in MLX arrays, convolved by MLX operations.
//!
//! An array a layer, `[1 + slots * (taps - 1), channels]` in the dtype of what comes; the first row is zeros, and what
//! precedes the beginning of a sequence. All spans of a step are convolved at once, over the rows that each position sees,
//! summed in f32. Works on every device; the slow twin of the CPU kernel.

use mlxcel_mlx_bridge::{Array, Dtype, Result};

use super::{StateCache, left, states_of};
use crate::blocks::StateSlot;
use crate::decoder::{ShortConvWeights, StepInputs, length};
use crate::schedule::StepPlan;

/// The states of engines that compute in MLX graphs.
pub(crate) struct GraphStates {
    layers: Vec<Option<Array>>,
    /// Slots that plans may name.
    slots: usize,
}

impl GraphStates {
    /// Storage for so many layers, grown as slots are used up to `slots` of them.
    pub(crate) fn new(layers: usize, slots: usize) -> Self {
        Self { layers: vec![None; layers], slots }
    }
}

impl StateCache for GraphStates {
    fn convolve(
        &mut self,
        layer: usize,
        weights: &ShortConvWeights,
        [input_gate, output_gate, value]: [&Array; 3],
        step: &StepInputs,
    ) -> Result<Array> {
        let rows = Rows::new(&step.plan, weights.shape.taps, self.slots)?;
        let gated = input_gate.multiply(value)?;
        let held = grown(self.layers[layer].take(), &gated, rows.needed)?;
        // What precedes each span, then what the step brings.
        let all = Array::concatenate(&[&held.take(&indices(&rows.before)?, 0)?, &gated], 0)?;
        let shape = [length(step.len), length(weights.shape.taps)];
        let seen = all.take(&indices(&rows.seen)?.reshape(&shape)?, 0)?.astype(Dtype::Float32)?;
        let sum = seen.multiply(&weights.kernel)?.sum(&[1], false)?;
        let sum = weights.bias.as_ref().map_or(Ok(sum.clone()), |bias| sum.add(bias))?;
        let left = all.take(&indices(&rows.left)?, 0)?;
        let to = indices(&rows.to)?.expand_dims(&[1])?.broadcast_to(left.shape())?;
        self.layers[layer] = Some(held.put_along_axis(&to, &left, 0)?);
        sum.astype(gated.dtype())?.multiply(output_gate)
    }
}

/// Which rows a step reads and writes.
struct Rows {
    /// Of the layer: what precedes the spans, `taps - 1` each.
    before: Vec<u32>,
    /// Of `before` and the step's own behind them: what each token sees, `[tokens, taps]`.
    seen: Vec<u32>,
    /// Of the same: the states that are left.
    left: Vec<u32>,
    /// Of the layer: where they go.
    to: Vec<u32>,
    /// Rows the layer must have.
    needed: usize,
}

impl Rows {
    fn new(plan: &StepPlan, taps: usize, slots: usize) -> Result<Self> {
        let (states, size) = (states_of(plan, slots)?, taps - 1);
        let mut rows = Self { before: vec![], seen: vec![], left: vec![], to: vec![], needed: 1 };
        let slot_rows = |slot: StateSlot| (0..size).map(move |at| (1 + slot.0 as usize * size + at) as u32);
        for (index, ((span, own), state)) in plan.spans.iter().zip(plan.rows()).zip(states).enumerate() {
            match state.from {
                Some(slot) => rows.before.extend(slot_rows(slot)),
                None => rows.before.extend(std::iter::repeat_n(0, size)),
            }
            // The row of a position, counted from the first that precedes the span.
            let row = |at: usize| match at.checked_sub(size) {
                Some(at) => (plan.spans.len() * size + own.start + at) as u32,
                None => (index * size + at) as u32,
            };
            rows.seen.extend((0..own.len()).flat_map(|at| (at..at + taps).map(row)));
            for (slot, tokens) in left(span, state) {
                rows.left.extend((tokens..tokens + size).map(row));
                rows.to.extend(slot_rows(slot));
            }
        }
        let last = rows.to.iter().chain(&rows.before).max().copied().unwrap_or(0);
        rows.needed = last as usize + 1;
        Ok(rows)
    }
}

/// A layer with at least `needed` rows: doubled where it has fewer.
fn grown(held: Option<Array>, like: &Array, needed: usize) -> Result<Array> {
    let rows = held.as_ref().map_or(0, |held| held.shape()[0] as usize);
    if let Some(held) = held.as_ref().filter(|_| needed <= rows) {
        return Ok(held.clone());
    }
    let zeros = Array::zeros(&[length(needed.max(2 * rows) - rows), like.shape()[1]], like.dtype())?;
    held.map_or(Ok(zeros.clone()), |held| Array::concatenate(&[&held, &zeros], 0))
}

fn indices(rows: &[u32]) -> Result<Array> {
    Array::from_slice(rows, &[length(rows.len())])
}
