//! A model whose layers keep states answers the same alone, in a batch, after preemption, in chunks and from a cached
//! prefix, which it finds where a state was kept.

#![allow(clippy::expect_used, reason = "tests")]

mod real;

use std::path::PathBuf;

use mlxcel_engine::{
    AnswerOptions, DeviceChoice, DraftOptions, Engine, LoadError, LoadOptions, Request, TokenLogprobs, Turn,
    load,
};
use real::{lfm2, lfm2_path, request, scored, submit};

const NEW_TOKENS: u32 = 40;

/// Sums are in f32, and not in the same order in steps of few and of many rows.
const TOLERANCE: f32 = 1e-3;

fn asked(index: u32, tokens: u32) -> Request {
    let prompt: Vec<u32> = (0..tokens).map(|at| 3 + (index * 31 + at * at * 7 + at * 11) % 200).collect();
    let answer = AnswerOptions { logprobs: Some(2), ..AnswerOptions::default() };
    Request { answer, ..request(&format!("r{index}"), &prompt, NEW_TOKENS) }
}

fn alone(requests: &[Request]) -> Vec<Vec<TokenLogprobs>> {
    let fresh = |request: &Request| scored(&submit(lfm2(LoadOptions::default()).as_ref(), request.clone())).0;
    requests.iter().map(fresh).collect()
}

/// Equal up to the first place, if any, where the two best tokens are too close to tell.
fn compare(expected: &[TokenLogprobs], got: &[TokenLogprobs], what: &str) -> usize {
    assert_eq!((expected.len(), got.len()), (NEW_TOKENS as usize, NEW_TOKENS as usize), "{what}");
    for (at, (expected, got)) in expected.iter().zip(got).enumerate() {
        let margin = expected.top[0].logprob - expected.top[1].logprob;
        if expected.chosen.id != got.chosen.id {
            assert!(margin < 2.0 * TOLERANCE, "{what}: token {at} differs, its margin is {margin}");
            return at;
        }
        let difference = (expected.chosen.logprob - got.chosen.logprob).abs();
        assert!(difference < TOLERANCE, "{what}: the score of token {at} is off by {difference}");
    }
    expected.len()
}

fn compare_all(expected: &[Vec<TokenLogprobs>], got: &[Vec<TokenLogprobs>], what: &str) {
    let compared: usize = expected.iter().zip(got).map(|(expected, got)| compare(expected, got, what)).sum();
    assert!(compared * 10 >= expected.len() * NEW_TOKENS as usize * 8, "{what}: {compared} tokens compared");
}

#[test]
fn output_is_the_same_alone_in_a_batch_and_after_preemption() {
    let requests: Vec<Request> = (0..12).map(|index| asked(index, 5 + 13 * index)).collect();
    let expected = alone(&requests);
    let together = |engine: &dyn Engine, requests: &[Request]| -> Vec<_> {
        let running: Vec<_> = requests.iter().map(|request| submit(engine, request.clone())).collect();
        running.iter().map(|events| scored(events).0).collect()
    };
    let engine = lfm2(LoadOptions::default());
    compare_all(&expected, &together(engine.as_ref(), &requests), "in a batch");
    assert_eq!(engine.state().preemptions, 0);
    drop(engine);
    // Blocks for about a third of them; the later ones have precedence.
    let engine = lfm2(LoadOptions { kv_tokens: Some(14 * 32), ..LoadOptions::default() });
    let ranked = requests.iter().enumerate().map(|(at, request)| {
        let turn = Turn { priority: at as i32 / 4, ..Turn::default() };
        Request { turn, ..request.clone() }
    });
    let ranked: Vec<Request> = ranked.collect();
    compare_all(&expected, &together(engine.as_ref(), &ranked), "after preemption");
    assert!(engine.state().preemptions > 0, "{:?}", engine.state());
}

#[test]
fn output_is_the_same_from_a_shared_prefix_which_ends_where_a_state_was_kept() {
    let long = |index: u32| {
        let mut request = asked(index, 8 + index);
        if let mlxcel_engine::Prompt::Tokens(tokens) = &mut request.prompt {
            tokens.splice(0..0, (0..100).map(|at: u32| 3 + (at * at * 5 + at) % 200));
        }
        request
    };
    let requests: Vec<Request> = (0..4).map(long).collect();
    let expected = alone(&requests);
    let engine = lfm2(LoadOptions::default());
    for (at, request) in requests.iter().enumerate() {
        let (tokens, finish) = scored(&submit(engine.as_ref(), request.clone()));
        compare(&expected[at], &tokens, &format!("request {at}"));
        assert_eq!(finish.cached_tokens, if at == 0 { 0 } else { 96 }, "all full blocks of the prefix");
    }
    let mut choices = requests[0].clone();
    choices.answer.choices = 3;
    let (_, finish) = scored(&submit(engine.as_ref(), choices));
    assert_eq!(finish.completion_tokens, 3 * NEW_TOKENS);
}

#[test]
fn what_guesses_ahead_is_refused() {
    let refused = |path: PathBuf, options: LoadOptions| {
        let options = LoadOptions { device: DeviceChoice::Cpu, ..options };
        matches!(load(&path, &options, &mut |_| {}), Err(LoadError::Stateful { .. }))
    };
    let draft = DraftOptions { path: lfm2_path(), quantize: None, tokens: 0..=4 };
    assert!(refused(lfm2_path(), LoadOptions { lookup_tokens: 4, ..LoadOptions::default() }));
    assert!(refused(lfm2_path(), LoadOptions { draft: Some(draft.clone()), ..LoadOptions::default() }));
    let other = lfm2_path().with_file_name("llama-tied");
    assert!(refused(other, LoadOptions { draft: Some(draft), ..LoadOptions::default() }));
}
