//! One step: plan, compute, sample, tell.

use std::time::Instant;

use mlxcel_mlx_bridge::{Array, Dtype, Result};

use super::thread::EngineThread;
use crate::decoder::StepOutput;
use crate::request::GenerateError;
use crate::schedule::{SequenceId, StepPlan};

/// Runs the next step, if there is one. A step that fails ends the requests that were in it.
pub(super) fn run_step(engine: &mut EngineThread) {
    let plan = engine.scheduler.plan();
    if plan.is_empty() {
        return;
    }
    let members: Vec<SequenceId> = plan.spans.iter().map(|span| span.sequence).collect();
    let sampled: Vec<SequenceId> = plan.sampled_sequences().collect();
    if let Err(error) = compute(engine, plan, &sampled) {
        for name in members {
            if let Some(mut sequence) = engine.remove(name) {
                sequence.fail(GenerateError::Internal(format!("a step failed: {error}")));
            }
        }
    }
}

fn compute(engine: &mut EngineThread, plan: StepPlan, sampled: &[SequenceId]) -> Result<()> {
    let logits = match engine.model.forward(plan, engine.cache.as_mut())? {
        StepOutput::Computed(hidden) => return mlxcel_mlx_bridge::eval(&[&hidden]),
        StepOutput::Logits(logits) => logits,
    };
    let all_greedy = sampled
        .iter()
        .all(|name| engine.sequences.get(name).is_some_and(|sequence| sequence.sampler.is_plain_greedy()));
    if all_greedy {
        let tokens: Vec<u32> = logits.argmax(-1, false)?.to_vec()?;
        for (&name, token) in sampled.iter().zip(tokens) {
            deliver(engine, name, token);
        }
        return Ok(());
    }
    sample(engine, &logits, sampled)
}

fn sample(engine: &mut EngineThread, logits: &Array, sampled: &[SequenceId]) -> Result<()> {
    let mut values: Vec<f32> = logits.astype(Dtype::Float32)?.to_vec()?;
    let width = values.len() / sampled.len().max(1);
    for (&name, row) in sampled.iter().zip(values.chunks_mut(width.max(1))) {
        let Some(sequence) = engine.sequences.get_mut(&name) else { continue };
        match sequence.sampler.sample(row) {
            Ok(token) => deliver(engine, name, token),
            Err(error) => {
                if let Some(mut sequence) = engine.remove(name) {
                    sequence.fail(GenerateError::Internal(error.to_string()));
                }
            }
        }
    }
    Ok(())
}

/// Gives a sampled token to its sequence, which goes on or ends.
fn deliver(engine: &mut EngineThread, name: SequenceId, token: u32) {
    let Some(sequence) = engine.sequences.get_mut(&name) else { return };
    if sequence.push(token, Instant::now()) {
        engine.remove(name);
    } else {
        engine.scheduler.append(name, token);
    }
}
