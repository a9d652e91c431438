//! The toy engine keeps the promises of the `Engine` trait.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use mlxcel_engine::toy::{ToyEngine, ToyOptions};
use mlxcel_engine::{
    ChatPrompt, Delta, Engine, Event, Finish, FinishReason, GenerateError, Prompt, Request, Turn,
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);

fn engine(options: ToyOptions) -> ToyEngine {
    ToyEngine::start(options).expect("a thread")
}

fn request(id: &str, prompt: Prompt) -> Request {
    let (sampling, limits, turn, answer) = Default::default();
    Request { id: id.into(), prompt, sampling, limits, turn, answer }
}

fn text(text: &str) -> Prompt {
    Prompt::Text(text.into())
}

fn submit(engine: &ToyEngine, request: Request) -> Receiver<Event> {
    let (send, events) = channel();
    engine.submit(request, Box::new(move |event| drop(send.send(event))));
    events
}

fn next(events: &Receiver<Event>) -> Event {
    events.recv_timeout(PATIENCE).expect("an event in time")
}

#[derive(Debug, PartialEq)]
struct Answer {
    prompt_tokens: u32,
    text: String,
    tokens: Vec<u32>,
    finish: Finish,
}

/// Reads events up to the last, which must be `Finished`.
fn answer(events: &Receiver<Event>) -> Answer {
    let Event::Started { prompt_tokens } = next(events) else { panic!("not started") };
    let (mut text, mut tokens) = (String::new(), Vec::new());
    loop {
        match next(events) {
            Event::Delta(Delta { text: more, token_ids, .. }) => {
                text.push_str(&more);
                tokens.extend(token_ids);
            }
            Event::Finished(finish) => {
                assert!(events.recv_timeout(PATIENCE).is_err(), "nothing follows the end");
                return Answer { prompt_tokens, text, tokens, finish };
            }
            event => panic!("unexpected {event:?}"),
        }
    }
}

fn ask(engine: &ToyEngine, request: Request) -> Answer {
    answer(&submit(engine, request))
}

fn refusal(engine: &ToyEngine, request: Request) -> String {
    match next(&submit(engine, request)) {
        Event::Failed(GenerateError::Invalid(message)) => message,
        event => panic!("not refused: {event:?}"),
    }
}

#[test]
fn answer_depends_on_the_prompt_only() {
    let first = ask(&engine(ToyOptions::default()), request("a", text("hello")));
    let again = ask(&engine(ToyOptions::default()), request("b", text("hello")));
    let other = ask(&engine(ToyOptions::default()), request("a", text("hello!")));
    assert_eq!((&first.text, &first.tokens), (&again.text, &again.tokens));
    assert_ne!(first.text, other.text);
}

#[test]
fn answer_has_the_configured_length_and_an_end() {
    let options = ToyOptions { tokens: 5, ..ToyOptions::default() };
    let answer = ask(&engine(options), request("a", text("hello")));
    assert_eq!(answer.prompt_tokens, 5);
    assert_eq!(answer.text.split_whitespace().count(), 5);
    assert_eq!(answer.finish.reason, FinishReason::Stop);
    assert_eq!(answer.finish.completion_tokens, 6);
    assert_eq!(answer.tokens.len(), 6);
}

#[test]
fn interrupted_answer_goes_on_from_its_tokens() {
    let engine = engine(ToyOptions::default());
    let whole = ask(&engine, request("a", text("hello")));
    for at in [1, 7, 15] {
        let mut tokens: Vec<u32> = "hello".bytes().map(u32::from).collect();
        tokens.extend(&whole.tokens[..at]);
        let rest = ask(&engine, request("b", Prompt::Tokens(tokens)));
        assert_eq!(rest.tokens, whole.tokens[at..]);
    }
}

#[test]
fn conversations_are_answered() {
    let chat = |content: &str| {
        Prompt::Chat(ChatPrompt {
            messages: json!([{ "role": "user", "content": content }]),
            ..ChatPrompt::default()
        })
    };
    let engine = engine(ToyOptions::default());
    let answer = ask(&engine, request("a", chat("hi")));
    assert_eq!(answer.prompt_tokens, "user: hi\n".len() as u32);
    assert_ne!(answer.text, ask(&engine, request("b", chat("ho"))).text);
    let empty = request("c", Prompt::Chat(ChatPrompt::default()));
    assert_eq!(refusal(&engine, empty), "messages must be a list of at least one message");
}

#[test]
fn max_tokens_ends_an_answer() {
    let engine = engine(ToyOptions::default());
    let whole = ask(&engine, request("a", text("hello")));
    for max_tokens in [0, 1, 3] {
        let mut short = request("b", text("hello"));
        short.limits.max_tokens = Some(max_tokens);
        let answer = ask(&engine, short);
        assert_eq!(answer.tokens, whole.tokens[..max_tokens as usize]);
        assert_eq!(answer.finish.reason, FinishReason::Length);
        assert_eq!(answer.finish.completion_tokens, max_tokens);
    }
}

#[test]
fn end_of_sequence_is_ignored_when_asked() {
    let options = ToyOptions { tokens: 2, context_tokens: 30, ..ToyOptions::default() };
    let mut endless = request("a", text("hello"));
    endless.limits.ignore_eos = true;
    let answer = ask(&engine(options), endless);
    assert_eq!(answer.finish.reason, FinishReason::Length);
    assert_eq!(answer.prompt_tokens + answer.finish.completion_tokens, 30);
}

#[test]
fn stop_string_ends_an_answer_before_it() {
    let engine = engine(ToyOptions::default());
    let whole = ask(&engine, request("a", text("hello"))).text;
    let words: Vec<&str> = whole.split_inclusive(' ').collect();
    // From the end of the third word into the fifth.
    let stop = format!(" {}{}", words[3], &words[4].chars().next().expect("a letter"));
    let mut stopped = request("b", text("hello"));
    stopped.limits.stop = vec![stop.clone(), "never".into()];
    let answer = ask(&engine, stopped);
    assert_eq!(answer.finish.reason, FinishReason::Stop);
    assert_eq!(answer.text, whole.split(&stop).next().expect("a part"));
}

#[test]
fn cancelling_ends_a_request_within_a_step() {
    let options = ToyOptions { token_delay: Duration::from_secs(600), ..ToyOptions::default() };
    let engine = engine(options);
    let events = submit(&engine, request("a", text("hello")));
    assert_eq!(next(&events), Event::Started { prompt_tokens: 5 });
    let begin = Instant::now();
    engine.cancel("unknown");
    engine.cancel("a");
    let Event::Finished(finish) = next(&events) else { panic!("not finished") };
    assert_eq!(finish.reason, FinishReason::Cancelled);
    assert!(begin.elapsed() < PATIENCE);
}

#[test]
fn requests_beyond_the_limit_wait_and_can_be_cancelled() {
    let options =
        ToyOptions { token_delay: Duration::from_secs(600), max_sequences: 1, ..ToyOptions::default() };
    let engine = engine(options);
    let running = submit(&engine, request("a", text("one")));
    let cancelled = submit(&engine, request("b", text("two")));
    let waiting = submit(&engine, request("c", text("three")));
    assert_eq!(next(&running), Event::Started { prompt_tokens: 3 });
    engine.cancel("b");
    let Event::Finished(finish) = next(&cancelled) else { panic!("not finished") };
    assert_eq!((finish.reason, finish.completion_tokens), (FinishReason::Cancelled, 0));
    assert_eq!((engine.state().running, engine.state().waiting), (1, 1));
    engine.cancel("a");
    assert_eq!(next(&waiting), Event::Started { prompt_tokens: 5 });
}

#[test]
fn state_is_empty_once_the_last_request_has_ended() {
    let engine = engine(ToyOptions { context_tokens: 77, ..ToyOptions::default() });
    ask(&engine, request("a", text("hello")));
    let state = engine.state();
    assert_eq!((state.running, state.waiting, state.context_tokens), (0, 0, 77));
}

#[test]
fn delays_are_kept() {
    let options = ToyOptions {
        token_delay: Duration::from_millis(10),
        prefill_delay_per_token: Duration::from_millis(20),
        tokens: 3,
        ..ToyOptions::default()
    };
    let finish = ask(&engine(options), request("a", text("hello"))).finish;
    assert!(finish.prefill >= Duration::from_millis(110), "{finish:?}");
    assert!(finish.decode >= Duration::from_millis(30), "{finish:?}");
}

#[test]
fn wrong_requests_are_refused() {
    let slow =
        ToyOptions { token_delay: Duration::from_secs(600), context_tokens: 8, ..ToyOptions::default() };
    let engine = engine(slow);
    let mut hot = request("a", text("hello"));
    hot.sampling.temperature = -1.0;
    assert_eq!(refusal(&engine, hot), "temperature must be finite and at least 0, got -1");
    assert_eq!(
        refusal(&engine, request("a", text("too long"))),
        "the prompt must be shorter than the context of 8 tokens, got 8"
    );
    assert_eq!(refusal(&engine, request("a", text(""))), "the prompt must have at least one token, got none");
    assert_eq!(
        refusal(&engine, request("a", Prompt::Tokens(vec![1, 5000]))),
        "token ids must be below 289, got 5000"
    );
    let first = submit(&engine, request("a", text("hello")));
    assert_eq!(
        refusal(&engine, request("a", text("again"))),
        "request ids must be unique among requests in flight, got a"
    );
    assert_eq!(next(&first), Event::Started { prompt_tokens: 5 });
}

#[test]
fn dropping_the_engine_fails_its_requests() {
    let engine = engine(ToyOptions {
        token_delay: Duration::from_secs(600),
        max_sequences: 1,
        ..ToyOptions::default()
    });
    let running = submit(&engine, request("a", text("hello")));
    let waiting = submit(&engine, request("b", text("hello")));
    assert_eq!(next(&running), Event::Started { prompt_tokens: 5 });
    drop(engine);
    for events in [running, waiting] {
        assert!(matches!(next(&events), Event::Failed(GenerateError::Internal(_))));
    }
}

#[test]
fn requests_end_at_their_deadlines_begun_or_not() {
    let options =
        ToyOptions { token_delay: Duration::from_millis(50), max_sequences: 1, ..ToyOptions::default() };
    let engine = engine(options);
    let until = |id, millis| Request {
        turn: Turn { deadline: Some(Duration::from_millis(millis)), ..Turn::default() },
        ..request(id, text("hello"))
    };
    let (running, waiting) = (submit(&engine, until("a", 120)), submit(&engine, until("b", 20)));
    assert!(matches!(next(&waiting), Event::Failed(GenerateError::DeadlineExceeded(_))));
    let last = running.iter().last();
    assert!(matches!(last, Some(Event::Failed(GenerateError::DeadlineExceeded(_)))), "{last:?}");
    assert_eq!(engine.state().running, 0);
}

#[test]
fn hanging_prompt_stops_all_requests_but_not_the_callers() {
    let options = ToyOptions { hang_on: Some("tar pit".into()), ..ToyOptions::default() };
    let engine = engine(options);
    let stuck = submit(&engine, request("a", text("into the tar pit")));
    assert!(matches!(next(&stuck), Event::Started { .. }));
    let behind = submit(&engine, request("b", text("hello")));
    engine.cancel("a");
    assert!(behind.recv_timeout(Duration::from_millis(100)).is_err());
    assert_eq!(engine.state().running, 1);
}

/// Runs this test binary again, since the process that meets the prompt does not survive.
#[test]
fn crashing_prompt_aborts_the_process() {
    const CHILD: &str = "MLXCEL_TEST_CRASH";
    if std::env::var_os(CHILD).is_some() {
        let options = ToyOptions { crash_on: Some("boom".into()), ..ToyOptions::default() };
        let engine = engine(options);
        ask(&engine, request("a", text("all is well")));
        println!("answered");
        ask(&engine, request("b", text("and boom")));
        println!("survived");
        return;
    }
    let binary = std::env::current_exe().expect("the test binary");
    let child = std::process::Command::new(binary)
        .args(["crashing_prompt_aborts_the_process", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("the test binary runs");
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(output.contains("answered") && !output.contains("survived"), "{output}");
    assert!(!child.status.success());
}
