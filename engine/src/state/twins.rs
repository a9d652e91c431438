//! The CPU kernel and the MLX operations, beside each other over random ragged steps.

#![allow(clippy::expect_used, reason = "tests")]

use mlxcel_mlx_bridge::{Array, Dtype, set_default_device};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::{GraphStates, HostStates, StateCache};
use crate::blocks::{BlockStore, BlockTable, StateLimits};
use crate::decoder::{LinearWeights, MatrixWeights, ShortConvWeights, StepInputs, length};
use crate::schedule::{SequenceId, Span, StepPlan, Token};

const CHANNELS: usize = 24;
const SLOTS: usize = 40;

fn weights(random: &mut ChaCha8Rng, taps: usize) -> ShortConvWeights {
    let config = json!({
        "model_type": "lfm2", "hidden_size": CHANNELS, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 8,
        "norm_eps": 1e-5, "conv_L_cache": taps, "block_ff_dim": 32, "layer_types": ["conv"],
    });
    let decoder = crate::families::describe(&config).expect("it is a model");
    let unused =
        || LinearWeights { matrix: MatrixWeights::Dense(normal(&mut random_of(1), &[1, 1])), bias: None };
    ShortConvWeights {
        shape: decoder.layers[0].mixer.short_conv().expect("it is a convolution").clone(),
        input_gate: unused(),
        output_gate: unused(),
        value: unused(),
        output: unused(),
        kernel: normal(random, &[length(taps), length(CHANNELS)]),
        bias: Some(normal(random, &[length(CHANNELS)])),
    }
}

fn random_of(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn normal(random: &mut ChaCha8Rng, shape: &[i32]) -> Array {
    let count = shape.iter().product::<i32>();
    let values: Vec<f32> = (0..count).map(|_| random.random_range(-1.0..1.0)).collect();
    Array::from_slice(&values, shape).expect("an array")
}

/// A step of random chunks of some of the sequences; new ones begin where cached prefixes end.
fn plan(
    random: &mut ChaCha8Rng,
    store: &mut BlockStore,
    running: &mut Vec<(BlockTable, Vec<u32>)>,
) -> StepPlan {
    match random.random_range(0..4) {
        0 if running.len() < 6 => {
            let table = store.attach(&[7; 200]);
            let known = table.tokens();
            running.push((table, vec![7; known]));
        }
        1 if running.len() > 2 => {
            let at = random.random_range(0..running.len());
            store.release(running.swap_remove(at).0);
        }
        _ => {}
    }
    let mut spans = Vec::new();
    for (at, (table, tokens)) in running.iter_mut().enumerate() {
        let count = [1, 5, 70][random.random_range(0..3)];
        let start = tokens.len();
        if store.grow(table, count).is_err() {
            continue;
        }
        let state = store.advance(table, count).expect("there are more slots than sequences");
        tokens.extend(vec![7; count]);
        let (sequence, blocks) = (SequenceId(at as u64), table.shared());
        spans.push(Span { sequence, tokens: vec![Token::Known(7); count], start, samples: 0, blocks, state });
    }
    for (table, tokens) in running {
        store.publish(table, tokens);
    }
    StepPlan { spans, copies: Vec::new() }
}

#[test]
fn both_convolve_ragged_steps_alike_and_go_on_from_the_same_states() {
    set_default_device(mlxcel_mlx_bridge::Device::CPU).expect("there is a CPU");
    for taps in [2, 3, 4] {
        let mut random = random_of(taps as u64);
        let weights = weights(&mut random, taps);
        let (mut host, mut graph) = (HostStates::new(1, SLOTS), GraphStates::new(1, SLOTS));
        let mut store = BlockStore::new(64).with_states(StateLimits { slots: SLOTS, interval: 2 });
        let mut running = vec![(BlockTable::default(), Vec::new())];
        for _ in 0..60 {
            let plan = plan(&mut random, &mut store, &mut running);
            if plan.is_empty() {
                continue;
            }
            let step = StepInputs::new(plan, None).expect("inputs");
            let inputs = [(); 3].map(|()| normal(&mut random, &[length(step.len), length(CHANNELS)]));
            let run = |states: &mut dyn StateCache| -> Vec<f32> {
                let out = states.convolve(0, &weights, inputs.each_ref(), &step).expect("it runs");
                out.astype(Dtype::Float32).and_then(|out| out.to_vec()).expect("it evaluates")
            };
            let (ours, theirs) = (run(&mut host), run(&mut graph));
            let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(ours.len() == theirs.len() && worst < 1e-5, "{taps} taps: off by {worst}");
        }
    }
}

#[test]
fn a_span_without_a_state_and_a_slot_that_is_not_there_are_refused() {
    let mut random = random_of(1);
    let weights = weights(&mut random, 3);
    let mut store = BlockStore::new(4).with_states(StateLimits { slots: 4, interval: 1 });
    let (mut table, mut running) = (BlockTable::default(), Vec::new());
    store.claim_state(&mut table).expect("there are slots");
    running.push((table, Vec::new()));
    let mut plan = plan(&mut random, &mut store, &mut running);
    let inputs = [(); 3].map(|()| normal(&mut random, &[length(plan.len()), length(CHANNELS)]));
    let refused = |plan: StepPlan| {
        let step = StepInputs::new(plan, None).expect("inputs");
        let host = HostStates::new(1, 3).convolve(0, &weights, inputs.each_ref(), &step);
        let graph = GraphStates::new(1, 3).convolve(0, &weights, inputs.each_ref(), &step);
        host.is_err() && graph.is_err()
    };
    plan.spans[0].state.as_mut().expect("it has a state").to = crate::blocks::StateSlot(3);
    assert!(refused(plan.clone()));
    plan.spans[0].state = None;
    assert!(refused(plan));
}
