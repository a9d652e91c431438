//! States in host memory, convolved by our CPU kernel.
//!
//! One buffer a layer, `[slots, taps - 1, channels]`, which grows as slots are used. It is read and written inside the
//! convolution's primitive, on the stream that evaluates it, so that steps see each other's states in the order they were
//! built.

use std::sync::{Arc, Mutex, PoisonError};

use mlxcel_kernels::{Gates, Scratch, ShortConv, short_conv};
use mlxcel_mlx_bridge::{Array, Dtype, HostInput, HostOutput, Result, host_op_single};

use super::{StateCache, left, states_of};
use crate::blocks::StateSlot;
use crate::decoder::{ShortConvWeights, StepInputs, length};
use crate::schedule::StepPlan;

/// The states of the CPU engine.
pub(crate) struct HostStates {
    layers: Vec<Arc<Mutex<Vec<f32>>>>,
    /// Slots that plans may name.
    slots: usize,
}

impl HostStates {
    /// Storage for so many layers, of at most `slots` slots.
    pub(crate) fn new(layers: usize, slots: usize) -> Self {
        Self { layers: (0..layers).map(|_| Arc::default()).collect(), slots }
    }
}

impl StateCache for HostStates {
    fn convolve(
        &mut self,
        layer: usize,
        weights: &ShortConvWeights,
        [input_gate, output_gate, value]: [&Array; 3],
        step: &StepInputs,
    ) -> Result<Array> {
        states_of(&step.plan, self.slots)?;
        let (held, plan) = (Arc::clone(&self.layers[layer]), Arc::clone(&step.plan));
        let (channels, taps) = (weights.shape.channels, weights.shape.taps);
        let output = [length(step.len), length(channels)];
        let mut inputs = vec![input_gate, output_gate, value, &weights.kernel];
        inputs.extend(&weights.bias);
        let kernel = move |inputs: &[HostInput<'_>], output: &mut HostOutput<'_>| {
            let [input, gate, value, weight, bias @ ..] = inputs else {
                return Err("a convolution takes two gates, a value and kernels".to_owned());
            };
            let bias = bias.first().map(HostInput::as_f32).transpose()?;
            let conv = ShortConv { channels, taps, weight: weight.as_f32()?, bias };
            let given = Given {
                gates: Gates { input: input.as_f32()?, output: gate.as_f32()? },
                value: value.as_f32()?,
            };
            // A poisoned lock means a kernel panicked; its step has failed, and its sequences with it.
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            convolve(&conv, &given, &plan, &mut held, output.as_f32_mut()?)
        };
        host_op_single("convolve", &inputs, &output, Dtype::Float32, kernel)
    }
}

/// Gates and values of a step, `[tokens, channels]` each.
struct Given<'a> {
    gates: Gates<'a>,
    value: &'a [f32],
}

/// Convolves span by span: before the rows of each lies what its sequence had last.
fn convolve(
    conv: &ShortConv<'_>,
    given: &Given<'_>,
    plan: &StepPlan,
    held: &mut Vec<f32>,
    out: &mut [f32],
) -> std::result::Result<(), String> {
    let size = conv.taps.saturating_sub(1) * conv.channels;
    for (span, rows) in plan.spans.iter().zip(plan.rows()) {
        let Some(state) = &span.state else { continue };
        let values = rows.start * conv.channels..rows.end * conv.channels;
        let mut inputs = Scratch::new(size + values.len());
        match state.from {
            Some(slot) => inputs[..size].copy_from_slice(place(held, slot, size)),
            None => inputs[..size].fill(0.0),
        }
        let (input, output) = (&given.gates.input[values.clone()], &given.gates.output[values.clone()]);
        let gates = Gates { input, output };
        short_conv(conv, gates, &given.value[values.clone()], &mut inputs, &mut out[values])
            .map_err(|error| error.to_string())?;
        for (slot, tokens) in left(span, state) {
            let last = tokens.min(rows.len()) * conv.channels;
            place(held, slot, size).copy_from_slice(&inputs[last..last + size]);
        }
    }
    Ok(())
}

/// The state in a slot, which is made where it has never been used.
fn place(held: &mut Vec<f32>, slot: StateSlot, size: usize) -> &mut [f32] {
    let start = slot.0 as usize * size;
    if held.len() < start + size {
        held.resize((start + size).max(2 * held.len()), 0.0);
    }
    &mut held[start..start + size]
}
