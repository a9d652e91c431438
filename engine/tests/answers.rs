//! What answers consist of: choices and log-probabilities, with real weights.

#![allow(clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use mlxcel_engine::{
    AnswerOptions, Delta, DeviceChoice, Engine, Event, Finish, FinishReason, GenerateError, Limits,
    LoadOptions, Prompt, Request, SamplingParams, TokenLogprobs, Turn, load,
};

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn engine() -> Box<dyn Engine> {
    let dir = std::env::var_os("MLXCEL_PARITY_DIR")
        .map(PathBuf::from)
        .expect("MLXCEL_PARITY_DIR names what parity/generate.py wrote; `./x test` sets it");
    let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    load(&dir.join("llama-tied"), &options, &mut |_| {}).expect("the checkpoint loads")
}

fn request(sampling: SamplingParams, answer: AnswerOptions) -> Request {
    let limits = Limits { max_tokens: Some(20), ignore_eos: true, ..Limits::default() };
    let (prompt, turn) = (Prompt::Tokens(vec![9, 10, 11, 12, 13]), Turn::default());
    Request { id: "r".to_owned(), prompt, sampling, limits, turn, answer }
}

fn sampled(seed: u64) -> SamplingParams {
    SamplingParams { temperature: 0.9, seed: Some(seed), ..SamplingParams::default() }
}

fn logprobs(top: u32) -> AnswerOptions {
    AnswerOptions { logprobs: Some(top), ..AnswerOptions::default() }
}

#[derive(Debug, Default, PartialEq)]
struct Choice {
    text: String,
    ids: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
    ended: Option<FinishReason>,
}

fn submit(engine: &dyn Engine, request: Request) -> Receiver<Event> {
    let (sender, events) = channel();
    engine.submit(request, Box::new(move |event| drop(sender.send(event))));
    events
}

fn collect(events: &Receiver<Event>) -> (Vec<Choice>, Result<Finish, GenerateError>) {
    let mut choices = BTreeMap::<u32, Choice>::new();
    let ended = loop {
        match events.recv_timeout(PATIENCE).expect("every request ends") {
            Event::Started { .. } => {}
            Event::Delta(Delta { choice, text, token_ids, logprobs, ended, .. }) => {
                let choice = choices.entry(choice).or_default();
                assert_eq!(choice.ended, None, "nothing follows a choice's end");
                choice.text.push_str(&text);
                choice.ids.extend(token_ids);
                choice.logprobs.extend(logprobs);
                choice.ended = ended;
            }
            Event::Finished(finish) => break Ok(finish),
            Event::Failed(error) => break Err(error),
        }
    };
    (choices.into_values().collect(), ended)
}

fn answer(engine: &dyn Engine, request: Request) -> (Vec<Choice>, Finish) {
    let (choices, ended) = collect(&submit(engine, request));
    (choices, ended.expect("it ends well"))
}

#[test]
fn choices_are_what_requests_with_consecutive_seeds_get() {
    let engine = engine();
    let several = AnswerOptions { choices: 3, ..AnswerOptions::default() };
    let (choices, finish) = answer(engine.as_ref(), request(sampled(7), several));
    assert_eq!(choices.len(), 3);
    assert_eq!((finish.prompt_tokens, finish.completion_tokens), (5, 60));
    for (choice, seed) in choices.iter().zip(7..) {
        let (alone, _) = answer(engine.as_ref(), request(sampled(seed), AnswerOptions::default()));
        assert_eq!(choice.ids, alone[0].ids);
        assert_eq!((choice.ended, alone[0].ended), (Some(FinishReason::Length), None));
    }
    assert_ne!(choices[0].ids, choices[1].ids);
}

#[test]
fn cancelling_a_request_ends_all_its_choices() {
    let engine = engine();
    let mut request = request(sampled(1), AnswerOptions { choices: 4, ..AnswerOptions::default() });
    request.limits.max_tokens = Some(120);
    let (sender, events) = channel();
    let (cancelled, gate) = channel::<()>();
    let sink = move |event| {
        let first_token = matches!(event, Event::Delta(_));
        drop(sender.send(event));
        if first_token {
            // Ends when the other side is dropped.
            gate.recv().unwrap_or_default();
        }
    };
    engine.submit(request, Box::new(sink));
    engine.cancel("r");
    drop(cancelled);
    let (_, ended) = collect(&events);
    assert_eq!(ended.map(|finish| finish.reason), Ok(FinishReason::Cancelled));
    // A request of the same name begins anew: nothing of the old one is left.
    let (choices, _) = answer(engine.as_ref(), self::request(sampled(1), AnswerOptions::default()));
    assert_eq!(choices[0].ids.len(), 20);
}

#[test]
fn greedy_tokens_are_the_most_likely_ones() {
    let engine = engine();
    let (plain, _) = answer(engine.as_ref(), request(SamplingParams::default(), AnswerOptions::default()));
    let (told, _) = answer(engine.as_ref(), request(SamplingParams::default(), logprobs(3)));
    assert_eq!(told[0].ids, plain[0].ids);
    assert_eq!(told[0].text, plain[0].text);
    let ids: Vec<u32> = told[0].logprobs.iter().map(|token| token.chosen.id).collect();
    assert_eq!(ids, plain[0].ids);
    for token in &told[0].logprobs {
        assert_eq!(token.top.len(), 3);
        assert_eq!(token.top[0], token.chosen);
        assert!(token.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
        let mass: f64 = token.top.iter().map(|token| f64::from(token.logprob).exp()).sum();
        assert!(mass <= 1.0 + 1e-4, "{mass}");
    }
}

#[test]
fn log_probabilities_are_the_model_s_own_whatever_the_sampling() {
    let engine = engine();
    let first = |sampling| {
        let (mut choices, _) = answer(engine.as_ref(), request(sampling, logprobs(5)));
        choices.remove(0).logprobs.remove(0)
    };
    let plain = first(SamplingParams::default());
    let hot = first(SamplingParams {
        temperature: 2.0,
        top_k: 4,
        logit_bias: [(plain.chosen.id, -100.0)].into(),
        ..sampled(3)
    });
    assert_eq!(hot.top, plain.top);
    assert_ne!(hot.chosen.id, plain.chosen.id, "the bias makes it impossible");
}

#[test]
fn the_bytes_of_logprobs_spell_the_text() {
    let engine = engine();
    let (choices, _) = answer(engine.as_ref(), request(sampled(5), logprobs(0)));
    let bytes: Vec<u8> = choices[0].logprobs.iter().flat_map(|token| token.chosen.bytes.clone()).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), choices[0].text);
    // Up to a stop string there are only the tokens whose text is told.
    let stop: String = choices[0].text.chars().skip(8).take(2).collect();
    let cut = choices[0].text.find(&stop).expect("it is in the text");
    let mut stopped = request(sampled(5), logprobs(0));
    stopped.limits.stop = vec![stop];
    let (stopped, _) = answer(engine.as_ref(), stopped);
    assert_eq!(stopped[0].text, choices[0].text[..cut]);
    let told: Vec<u8> = stopped[0].logprobs.iter().flat_map(|token| token.chosen.bytes.clone()).collect();
    assert!(String::from_utf8_lossy(&told).starts_with(&stopped[0].text));
    assert!(stopped[0].logprobs.len() < stopped[0].ids.len(), "the stop string's own tokens are not told");
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let engine = engine();
    let cases = [
        (AnswerOptions { choices: 0, ..AnswerOptions::default() }, "choices"),
        (AnswerOptions { choices: 129, ..AnswerOptions::default() }, "choices"),
        (logprobs(21), "logprobs"),
    ];
    for (options, name) in cases {
        let (_, ended) = collect(&submit(engine.as_ref(), request(sampled(1), options)));
        assert!(matches!(ended, Err(GenerateError::Invalid(text)) if text.contains(name)));
    }
}
