//! A request's output does not depend on what runs beside it, on whether it gave its blocks up on the way, or on
//! where its prefix came from.
//!
//! What arithmetic allows: everything is summed in f32, but not always in the same order. Products of up to 8 rows
//! take another path (with activations rounded to 16 bits) than those of more, and so does attention of few queries.
//! So a token computed alone, in a batch, or again as part of a prompt has logits that differ in their last digits,
//! and greedy output may turn where the two best tokens are as close as that; the same work gives the same bits. The
//! tests demand the same log-probabilities within `TOLERANCE`, and the same tokens up to the first place, if any,
//! where the two best were closer than twice that: there, and nowhere else, either is right.

#![allow(clippy::expect_used, reason = "tests")]

mod real;

use mlxcel_engine::{AnswerOptions, Engine, LoadOptions, Request, TokenLogprobs, Turn};

use real::{request, scored, smollm2, submit};

/// Most difference of a log-probability; the largest of 1,536 seen was 0.0009.
const TOLERANCE: f32 = 0.005;

const NEW_TOKENS: u32 = 32;

/// Options with room for all at once.
fn roomy() -> LoadOptions {
    LoadOptions { kv_tokens: Some(16 * 256), ..LoadOptions::default() }
}

/// Request `index` of 16: prompts of 9 to 84 tokens that begin differently.
fn asked(index: u32) -> Request {
    let prompt: Vec<u32> =
        (0..9 + 5 * index).map(|at| 500 + index * 997 + (at * at * 37 + at * 11) % 900).collect();
    with_scores(&format!("r{index}"), &prompt)
}

fn with_scores(id: &str, prompt: &[u32]) -> Request {
    let answer = AnswerOptions { logprobs: Some(2), ..AnswerOptions::default() };
    Request { answer, ..request(id, prompt, NEW_TOKENS) }
}

/// What each gives when it is the only one.
fn alone(engine: &dyn Engine, requests: &[Request]) -> Vec<Vec<TokenLogprobs>> {
    requests.iter().map(|request| scored(&submit(engine, request.clone())).0).collect()
}

/// What each gives when all run at once.
fn together(engine: &dyn Engine, requests: &[Request]) -> Vec<Vec<TokenLogprobs>> {
    let running: Vec<_> = requests.iter().map(|request| submit(engine, request.clone())).collect();
    running.iter().map(|events| scored(events).0).collect()
}

/// What each gives when those of the second half take the places of the first, which have begun.
fn in_the_way(engine: &dyn Engine, requests: &[Request]) -> Vec<Vec<TokenLogprobs>> {
    let (first, second) = requests.split_at(requests.len() / 2);
    let mut running: Vec<_> = first.iter().map(|request| submit(engine, request.clone())).collect();
    while engine.state().running < 6 {
        std::thread::yield_now();
    }
    running.extend(second.iter().map(|request| {
        let turn = Turn { priority: 1, ..request.turn.clone() };
        submit(engine, Request { turn, ..request.clone() })
    }));
    running.iter().map(|events| scored(events).0).collect()
}

/// Compares up to the first place where either token is right; how many tokens that were.
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

/// Compares all, of which most must have been comparable to their ends.
fn compare_all(expected: &[Vec<TokenLogprobs>], got: &[Vec<TokenLogprobs>], what: &str) {
    let each = expected.iter().zip(got).enumerate();
    let compared: usize =
        each.map(|(index, (e, g))| compare(e, g, &format!("{what}, request {index}"))).sum();
    let all = expected.len() * NEW_TOKENS as usize;
    assert!(compared * 10 >= all * 8, "{what}: only {compared} of {all} tokens could be compared");
}

#[test]
fn output_is_the_same_from_a_shared_prefix() {
    let prefix = (0..100).map(|at: u32| 700 + (at * at * 13 + at * 29) % 1100);
    let prompt =
        |tail: u32| prefix.clone().chain((0..5 + tail).map(move |at| 2000 + tail * 61 + at * 3)).collect();
    let prompts: [Vec<u32>; 4] = std::array::from_fn(|index| prompt(index as u32));
    let requests = prompts.each_ref().map(|prompt| with_scores(&format!("r{}", prompt.len()), prompt));
    let fresh = |request| alone(smollm2(roomy()).as_ref(), std::slice::from_ref(request)).remove(0);
    let expected: Vec<_> = requests.iter().map(fresh).collect();

    let engine = smollm2(roomy());
    let (first, finish) = scored(&submit(engine.as_ref(), requests[0].clone()));
    assert_eq!((&first, finish.cached_tokens), (&expected[0], 0));
    let running = requests[1..].iter().map(|request| submit(engine.as_ref(), request.clone()));
    let (rest, finishes): (Vec<_>, Vec<_>) =
        running.collect::<Vec<_>>().iter().map(scored).collect::<Vec<_>>().into_iter().unzip();
    assert!(finishes.iter().all(|finish| finish.cached_tokens == 96), "{finishes:?}");
    compare_all(&expected[1..], &rest, "from a shared prefix");
}

#[test]
fn output_is_the_same_alone_in_a_batch_and_after_preemption() {
    let requests: Vec<Request> = (0..16).map(asked).collect();
    let engine = smollm2(roomy());
    let expected = alone(engine.as_ref(), &requests);
    assert_eq!(alone(engine.as_ref(), &requests[..2]), expected[..2], "the same work gives the same bits");
    drop(engine);

    let engine = smollm2(roomy());
    compare_all(&expected, &together(engine.as_ref(), &requests), "in a batch");
    assert_eq!(engine.state().preemptions, 0);
    drop(engine);

    let options = LoadOptions { kv_tokens: Some(20 * 32), max_sequences: Some(6), ..LoadOptions::default() };
    let engine = smollm2(options);
    compare_all(&expected, &in_the_way(engine.as_ref(), &requests), "after preemption");
    assert!(engine.state().preemptions >= 5, "{:?}", engine.state());
}
