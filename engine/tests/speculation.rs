//! Guessing ahead changes how many steps an output takes, and nothing else.

#![allow(clippy::expect_used, reason = "tests")]

mod real;

use std::path::Path;
use std::sync::Arc;

use mlxcel_engine::{AnswerOptions, DraftOptions, LoadOptions, Request, SamplingParams, Trace, load};

use real::{request, scored, smollm2, smollm2_path, submit};

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
    run_with(requests, LoadOptions { lookup_tokens, ..LoadOptions::default() }, dir)
}

fn run_with(requests: &[Request], options: LoadOptions, dir: &Path) -> (Vec<Vec<u32>>, usize) {
    let file = dir.join("trace.json");
    let trace = Arc::new(Trace::create(&file).expect("a file"));
    let options = LoadOptions { trace: Some(Arc::clone(&trace)), ..options };
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

/// SmolLM2 drafts for itself: that costs more than it saves, so it has to be told to.
fn drafted(tokens: u32) -> LoadOptions {
    let draft = DraftOptions { path: smollm2_path(), quantize: None, tokens: tokens..=tokens };
    LoadOptions { draft: Some(draft), ..LoadOptions::default() }
}

/// Texts that do not repeat themselves.
fn plain(index: u32, sampling: SamplingParams) -> Request {
    let prompt: Vec<u32> = (0..40).map(|at| 1000 + index * 977 + at * at * 31 % 9001).collect();
    let answer = AnswerOptions { logprobs: Some(0), ..AnswerOptions::default() };
    Request { answer, sampling, ..request(&format!("p{index}"), &prompt, NEW_TOKENS) }
}

#[test]
fn a_draft_model_saves_steps_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let sampled = SamplingParams { temperature: 0.5, seed: Some(5), ..SamplingParams::default() };
    for sampling in [SamplingParams::default(), sampled] {
        let requests = [plain(0, sampling)];
        let (expected, steps) = run(&requests, 0, dir.path());
        let (guessed, fewer) = run_with(&requests, drafted(6), dir.path());
        assert_eq!(guessed, expected);
        assert!(fewer * 3 < steps, "{fewer} steps with guesses, {steps} without");
    }
}

#[test]
fn a_draft_guesses_for_sequences_side_by_side_and_beside_their_own_texts() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut requests: Vec<Request> = (0..3).map(|index| plain(index, SamplingParams::default())).collect();
    requests.push(asked(7, SamplingParams::default()));
    let (expected, steps) = run(&requests, 0, dir.path());
    let both = LoadOptions { lookup_tokens: 3, ..drafted(3) };
    let (guessed, fewer) = run_with(&requests, both, dir.path());
    assert_eq!(guessed, expected);
    assert!(fewer < steps, "{fewer} steps with guesses, {steps} without");
}

#[test]
fn a_draft_whose_tokens_are_others_is_refused_by_name() {
    let Some(parity) = std::env::var_os("MLXCEL_PARITY_DIR") else {
        panic!("`./x test` sets MLXCEL_PARITY_DIR")
    };
    let path = Path::new(&parity).join("llama-tied");
    let draft = DraftOptions { path: path.clone(), quantize: None, tokens: 0..=4 };
    let options = LoadOptions { draft: Some(draft), ..LoadOptions::default() };
    let refused = load(&smollm2_path(), &options, &mut |_| {}).map(drop).expect_err("it has other tokens");
    let text = refused.to_string();
    assert!(text.contains("llama-tied cannot draft") && text.contains("must have the tokenizer"), "{text}");
}
