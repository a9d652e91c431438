//! The engine's promises with real weights: a tiny checkpoint of the parity generator.

#![allow(clippy::expect_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use mlxcel_engine::{
    Delta, DeviceChoice, Engine, Event, Finish, FinishReason, GenerateError, Limits, LoadError, LoadOptions,
    Prompt, Request, SamplingParams, Turn, load,
};

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn engine(options: LoadOptions) -> Box<dyn Engine> {
    let dir = std::env::var_os("MLXCEL_PARITY_DIR")
        .map(PathBuf::from)
        .expect("MLXCEL_PARITY_DIR names what parity/generate.py wrote; `./x test` sets it");
    let options = LoadOptions { device: DeviceChoice::Cpu, ..options };
    load(&dir.join("llama-tied"), &options, &mut |_| {}).expect("the checkpoint loads")
}

fn request(id: &str, prompt: &[u32], max_tokens: u32) -> Request {
    let limits = Limits { max_tokens: Some(max_tokens), ignore_eos: true, ..Limits::default() };
    let (id, prompt) = (id.to_owned(), Prompt::Tokens(prompt.to_vec()));
    let (sampling, turn, answer) = Default::default();
    Request { id, prompt, sampling, limits, turn, answer }
}

fn submit(engine: &dyn Engine, request: Request) -> Receiver<Event> {
    let (sender, events) = channel();
    engine.submit(request, Box::new(move |event| drop(sender.send(event))));
    events
}

/// Everything a request gave, to its end.
fn collect(events: &Receiver<Event>) -> (Vec<u32>, String, Result<Finish, GenerateError>) {
    let (mut ids, mut text) = (Vec::new(), String::new());
    loop {
        match events.recv_timeout(PATIENCE).expect("every request ends") {
            Event::Started { .. } => {}
            Event::Delta(Delta { text: piece, token_ids, .. }) => {
                ids.extend(token_ids);
                text.push_str(&piece);
            }
            Event::Finished(finish) => return (ids, text, Ok(finish)),
            Event::Failed(error) => return (ids, text, Err(error)),
        }
    }
}

fn alone(engine: &dyn Engine, request: Request) -> Vec<u32> {
    collect(&submit(engine, request)).0
}

#[test]
fn weights_that_exceed_the_memory_to_use_are_refused_with_both_figures() {
    let dir = std::env::var_os("MLXCEL_PARITY_DIR").map(PathBuf::from).expect("as above");
    let options =
        LoadOptions { device: DeviceChoice::Cpu, memory_bytes: Some(10_000), ..LoadOptions::default() };
    let refused = load(&dir.join("llama-tied"), &options, &mut |_| {}).err();
    assert!(matches!(refused, Some(LoadError::Memory { needed: 10_001.., memory: 10_000 })), "{refused:?}");
}

#[test]
fn requests_side_by_side_get_what_each_gets_alone() {
    let engine = engine(LoadOptions::default());
    let requests: Vec<Request> = (0..6u32)
        .map(|n| {
            let prompt: Vec<u32> = (0..1 + 7 * n).map(|i| 3 + (i * 11 + n) % 200).collect();
            let mut request = request(&format!("r{n}"), &prompt, 12 + n);
            if n % 2 == 1 {
                request.sampling =
                    SamplingParams { temperature: 0.8, seed: Some(n.into()), ..SamplingParams::default() };
            }
            request
        })
        .collect();
    let expected: Vec<_> = requests.iter().map(|request| alone(engine.as_ref(), request.clone())).collect();
    let running: Vec<_> = requests.into_iter().map(|request| submit(engine.as_ref(), request)).collect();
    let together: Vec<_> = running.iter().map(|events| collect(events).0).collect();
    assert_eq!(together, expected);
}

#[test]
fn more_requests_than_fit_wait_and_all_finish() {
    let engine = engine(LoadOptions { max_sequences: Some(2), ..LoadOptions::default() });
    let running: Vec<_> =
        (0..7).map(|n| submit(engine.as_ref(), request(&format!("r{n}"), &[5, 6, 7 + n], 9))).collect();
    for events in &running {
        let (ids, _, finish) = collect(events);
        assert_eq!((ids.len(), finish.map(|finish| finish.reason)), (9, Ok(FinishReason::Length)));
    }
}

#[test]
fn a_cancelled_request_ends_as_cancelled_and_others_go_on() {
    let engine = engine(LoadOptions::default());
    // The first token waits until the cancellation is on its way, so that it cannot come too late.
    let (sender, long) = channel();
    let (cancelled, gate) = channel::<()>();
    let sink = move |event| {
        let first_token = matches!(event, Event::Delta(_));
        drop(sender.send(event));
        if first_token {
            // Ends when the other side is dropped.
            gate.recv().unwrap_or_default();
        }
    };
    engine.submit(request("long", &[4, 5], 120), Box::new(sink));
    let other = submit(engine.as_ref(), request("other", &[6, 7], 30));
    while !matches!(long.recv_timeout(PATIENCE).expect("it starts"), Event::Delta(_)) {}
    engine.cancel("long");
    drop(cancelled);
    let (_, _, finish) = collect(&long);
    assert_eq!(finish.map(|finish| finish.reason), Ok(FinishReason::Cancelled));
    assert_eq!(collect(&other).0.len(), 30);
}

#[test]
fn a_request_whose_deadline_passes_fails_with_what_it_got_and_others_go_on() {
    let engine = engine(LoadOptions { max_sequences: Some(1), ..LoadOptions::default() });
    // The first token waits until the deadlines have passed; the engine goes on a few steps only.
    let (sender, late) = channel();
    let sink = move |event| {
        let first_token = matches!(event, Event::Delta { .. });
        drop(sender.send(event));
        if first_token {
            std::thread::sleep(Duration::from_millis(400));
        }
    };
    let within = |id: &str, millis| Request {
        turn: Turn { deadline: Some(Duration::from_millis(millis)), ..Turn::default() },
        ..request(id, &[4, 5], 120)
    };
    engine.submit(within("late", 300), Box::new(sink));
    let waiting = submit(engine.as_ref(), within("waiting", 50));
    let other = submit(engine.as_ref(), request("other", &[6, 7], 30));
    let (ids, _, ended) = collect(&late);
    assert!(!ids.is_empty() && ids.len() < 120);
    assert!(matches!(ended, Err(GenerateError::DeadlineExceeded(text)) if text.contains("300 ms")));
    let (ids, _, ended) = collect(&waiting);
    assert!(ids.is_empty());
    assert!(matches!(ended, Err(GenerateError::DeadlineExceeded(_))));
    assert_eq!(collect(&other).0.len(), 30);
}

#[test]
fn output_ends_before_a_stop_string() {
    let engine = engine(LoadOptions::default());
    let (_, whole, _) = collect(&submit(engine.as_ref(), request("whole", &[9, 10, 11], 24)));
    let stop: String = whole.chars().skip(8).take(2).collect();
    let cut = whole.find(&stop).expect("the stop string is in the text");
    let mut stopped = request("stopped", &[9, 10, 11], 24);
    stopped.limits.stop = vec![stop];
    let (_, text, finish) = collect(&submit(engine.as_ref(), stopped));
    assert_eq!(text, whole[..cut]);
    assert_eq!(finish.map(|finish| finish.reason), Ok(FinishReason::Stop));
}

#[test]
fn a_prompt_that_fills_the_context_is_refused_by_name() {
    let engine = engine(LoadOptions { context_tokens: Some(16), ..LoadOptions::default() });
    let (_, _, ended) = collect(&submit(engine.as_ref(), request("full", &[5; 16], 1)));
    assert!(matches!(ended, Err(GenerateError::Invalid(text)) if text.contains("16 tokens")));
    let (ids, _, _) = collect(&submit(engine.as_ref(), request("nearly", &[5; 12], 100)));
    assert_eq!(ids.len(), 4, "output ends with the context");
}

#[test]
fn dropping_an_engine_ends_what_runs() {
    let engine = engine(LoadOptions::default());
    let events = submit(engine.as_ref(), request("long", &[4, 5], 120));
    drop(engine);
    assert_eq!(collect(&events).2.map(|finish| finish.reason), Ok(FinishReason::Cancelled));
}
