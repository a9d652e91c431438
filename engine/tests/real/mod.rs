//! Engines with real weights, and what tests ask of them.

#![allow(dead_code, clippy::expect_used, reason = "shared by test programs that each use a part")]

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use mlxcel_engine::{
    AnswerOptions, DeviceChoice, Engine, Event, Finish, Limits, LoadOptions, Prompt, Request, SamplingParams,
    TokenLogprobs, Turn, load,
};

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// SmolLM2 on the CPU.
pub(crate) fn smollm2(options: LoadOptions) -> Box<dyn Engine> {
    on_cpu(smollm2_path(), options)
}

pub(crate) fn smollm2_path() -> PathBuf {
    let path = std::env::var_os("MLXCEL_TEST_SMOLLM2");
    path.expect("MLXCEL_TEST_SMOLLM2 names the default model's GGUF file; `./x test` sets it").into()
}

/// A model of two layers, 288 tokens and a context of 256 on the CPU, for tests of many steps.
pub(crate) fn tiny(options: LoadOptions) -> Box<dyn Engine> {
    on_cpu(case("llama-tied"), options)
}

/// The same with four layers, of which three are short convolutions.
pub(crate) fn lfm2(options: LoadOptions) -> Box<dyn Engine> {
    on_cpu(lfm2_path(), options)
}

pub(crate) fn lfm2_path() -> PathBuf {
    case("lfm2")
}

/// A model that the parity generator wrote.
fn case(name: &str) -> PathBuf {
    let dir = std::env::var_os("MLXCEL_PARITY_DIR")
        .map(PathBuf::from)
        .expect("MLXCEL_PARITY_DIR names what parity/generate.py wrote; `./x test` sets it");
    dir.join(name)
}

fn on_cpu(path: PathBuf, options: LoadOptions) -> Box<dyn Engine> {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..options };
    load(&path, &options, &mut |_| {}).expect("the checkpoint loads")
}

/// A greedy request that goes on to its limit.
pub(crate) fn request(id: &str, prompt: &[u32], max_tokens: u32) -> Request {
    Request {
        id: id.to_owned(),
        prompt: Prompt::Tokens(prompt.to_vec()),
        sampling: SamplingParams::default(),
        limits: Limits { max_tokens: Some(max_tokens), ignore_eos: true, ..Limits::default() },
        answer: AnswerOptions::default(),
        turn: Turn::default(),
    }
}

pub(crate) fn submit(engine: &dyn Engine, request: Request) -> Receiver<Event> {
    let (sender, events) = channel();
    engine.submit(request, Box::new(move |event| drop(sender.send(event))));
    events
}

/// What a request for log-probabilities gave, to its end.
pub(crate) fn scored(events: &Receiver<Event>) -> (Vec<TokenLogprobs>, Finish) {
    let mut tokens = Vec::new();
    loop {
        match events.recv_timeout(PATIENCE).expect("every request ends") {
            Event::Started { .. } => {}
            Event::Delta(delta) => tokens.extend(delta.logprobs),
            Event::Finished(finish) => return (tokens, finish),
            Event::Failed(error) => panic!("{error}"),
        }
    }
}
