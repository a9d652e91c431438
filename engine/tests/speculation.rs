//! Guessing ahead changes how many steps an output takes, and nothing else.

#![allow(clippy::expect_used, reason = "tests")]

mod real;

use std::path::Path;
use std::sync::Arc;

use mlxcel_engine::{AnswerOptions, LoadOptions, Request, SamplingParams, Trace};

use real::{request, scored, smollm2, submit};

const NEW_TOKENS: u32 = 60;

/// A text that repeats itself, as one that is quoted or edited does.
fn repeating(index: u32) -> Vec<u32> {
    let phrase = (0..12 + index).map(|at| 700 + index * 131 + at * at * 7 % 400);
    let times = std::iter::repeat_n(phrase.collect::<Vec<u32>>(), 3);
    times.flatten().collect()
}

fn asked(index: u32, sampling: SamplingParams) -> Request {
    let answer = AnswerOptions { logprobs: Some(0), ..AnswerOptions::default() };
    Request { answer, sampling, ..request(&format!("r{index}"), &repeating(index), NEW_TOKENS) }
}

/// The tokens of requests that run side by side, and how many steps they took.
fn run(requests: &[Request], lookup_tokens: u32, dir: &Path) -> (Vec<Vec<u32>>, usize) {
    let file = dir.join(format!("{lookup_tokens}.json"));
    let trace = Arc::new(Trace::create(&file).expect("a file"));
    let options = LoadOptions { lookup_tokens, trace: Some(Arc::clone(&trace)), ..LoadOptions::default() };
    let engine = smollm2(options);
    let running: Vec<_> = requests.iter().map(|request| submit(engine.as_ref(), request.clone())).collect();
    let tokens = running.iter().map(|events| scored(events).0.iter().map(|token| token.chosen.id).collect());
    let tokens = tokens.collect();
    drop(engine);
    trace.close();
    let steps = std::fs::read_to_string(&file).expect("it was written").matches("\"build\"").count();
    (tokens, steps)
}

#[test]
fn greedy_output_is_the_same_and_takes_fewer_steps() {
    let dir = tempfile::tempdir().expect("a folder");
    let requests = [asked(0, SamplingParams::default())];
    let (expected, steps) = run(&requests, 0, dir.path());
    let (guessed, fewer) = run(&requests, 7, dir.path());
    assert_eq!(guessed, expected);
    assert!(steps >= NEW_TOKENS as usize, "{steps}");
    assert!(fewer * 3 < steps * 2, "{fewer} steps with guesses, {steps} without");
}

#[test]
fn seeded_output_is_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let sampling = SamplingParams { temperature: 0.7, seed: Some(11), ..SamplingParams::default() };
    let requests = [asked(1, sampling)];
    let (expected, steps) = run(&requests, 0, dir.path());
    let (guessed, fewer) = run(&requests, 7, dir.path());
    assert_eq!(guessed, expected);
    assert!(fewer < steps, "{fewer} steps with guesses, {steps} without");
}

#[test]
fn sequences_guess_side_by_side() {
    let dir = tempfile::tempdir().expect("a folder");
    let requests: Vec<Request> = (0..3).map(|index| asked(index, SamplingParams::default())).collect();
    let (expected, steps) = run(&requests, 0, dir.path());
    let (guessed, fewer) = run(&requests, 2, dir.path());
    assert_eq!(guessed, expected);
    assert!(fewer < steps, "{fewer} steps with guesses, {steps} without");
}
