//! Answers that another engine began: wherever it stopped, the rest is what it would have told, token by token.

#![allow(clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

use mlxcel_engine::{
    AnswerOptions, ChatPrompt, Delta, DeviceChoice, Engine, Event, FinishReason, GenerateError, Grammar,
    Limits, LoadOptions, Prompt, Request, SamplingParams, Turn, load,
};
use serde_json::{Value, json};

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn engine() -> Box<dyn Engine> {
    let path = std::env::var_os("MLXCEL_TEST_SMOLLM2").map(PathBuf::from);
    let path = path.expect("MLXCEL_TEST_SMOLLM2 names the default model's GGUF file; `./x test` sets it");
    let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    load(&path, &options, &mut |_| {}).expect("the checkpoint loads")
}

fn request(question: &str) -> Request {
    let messages = json!([{"role": "user", "content": question}]);
    let chat = ChatPrompt { messages, tools: Value::Null, variables: Value::Null };
    Request {
        id: "r".to_owned(),
        prompt: Prompt::Chat(chat),
        sampling: SamplingParams::default(),
        limits: Limits { max_tokens: Some(24), ..Limits::default() },
        turn: Turn::default(),
        answer: AnswerOptions::default(),
    }
}

/// What is told of each choice: text, and tokens.
type Told = BTreeMap<u32, (String, Vec<u32>)>;

#[derive(Debug)]
struct Whole {
    /// What every delta brought: of which choice, text, tokens, and whether it ended it.
    deltas: Vec<(u32, String, Vec<u32>, bool)>,
    reason: FinishReason,
    completion_tokens: u32,
}

fn ask(engine: &dyn Engine, request: Request) -> Result<Whole, GenerateError> {
    let (sender, events) = channel();
    engine.submit(request, Box::new(move |event| drop(sender.send(event))));
    let mut deltas = Vec::new();
    loop {
        match events.recv_timeout(PATIENCE).expect("every request ends") {
            Event::Started { .. } => {}
            Event::Delta(Delta { choice, text, token_ids, ended, .. }) => {
                deltas.push((choice, text, token_ids, ended.is_some()));
            }
            Event::Finished(finish) => {
                let (reason, completion_tokens) = (finish.reason, finish.completion_tokens);
                return Ok(Whole { deltas, reason, completion_tokens });
            }
            Event::Failed(error) => return Err(error),
        }
    }
}

fn told(deltas: &[(u32, String, Vec<u32>, bool)]) -> Told {
    let mut told = Told::new();
    for (choice, text, tokens, _) in deltas {
        let of_choice = told.entry(*choice).or_default();
        of_choice.0.push_str(text);
        of_choice.1.extend(tokens);
    }
    told
}

/// Stops after every third delta in turn, and has the answer go on from there on another engine, which has computed
/// nothing yet.
fn check(request: &Request) -> Whole {
    let whole = ask(&*engine(), request.clone()).expect("it ends well");
    let all = told(&whole.deltas);
    for cut in (1..=whole.deltas.len()).rev().step_by(3) {
        let begun = told(&whole.deltas[..cut]);
        let choices = request.answer.choices;
        let resumed =
            (0..choices).map(|choice| begun.get(&choice).map_or(Vec::new(), |(_, ids)| ids.clone()));
        let answer = AnswerOptions { resumed: resumed.collect(), ..request.answer.clone() };
        let rest = ask(&*engine(), Request { answer, ..request.clone() }).expect("it goes on");
        let mut joined = begun;
        // Of a choice that has been told to have ended, its end may be told again, and nothing else.
        let ended = |choice: u32| whole.deltas[..cut].iter().any(|(of, _, _, ended)| *of == choice && *ended);
        for (choice, text, tokens, last) in rest.deltas {
            assert!(!ended(choice) || (tokens.is_empty() && last), "choice {choice} goes on after its end");
            let of_choice = joined.entry(choice).or_default();
            if !ended(choice) {
                of_choice.0.push_str(&text);
            }
            of_choice.1.extend(tokens);
        }
        assert_eq!(joined, all, "stopped after {cut} of {} deltas", whole.deltas.len());
        assert_eq!((rest.reason, rest.completion_tokens), (whole.reason, whole.completion_tokens));
    }
    whole
}

#[test]
fn a_greedy_answer_goes_on_from_wherever_it_stopped() {
    let whole = check(&request("What is the capital of France?"));
    assert_eq!(whole.reason, FinishReason::Stop);
    // Characters of several tokens are held back until they are whole.
    check(&request("Write the word for hello in Chinese, then some emoji: 你好 😀"));
}

#[test]
fn drawn_tokens_are_those_that_would_have_been_drawn() {
    let mut request = request("Tell me of the sea.");
    // Of a few candidates, so that what rounds differently in a prompt than in decoding makes no other draw.
    request.sampling = SamplingParams {
        temperature: 0.6,
        top_k: 4,
        seed: Some(11),
        repetition_penalty: 1.2,
        frequency_penalty: 0.3,
        ..SamplingParams::default()
    };
    check(&request);
}

#[test]
fn every_choice_goes_on_from_where_it_was() {
    let mut request = request("Name a colour.");
    request.sampling = SamplingParams { temperature: 1.0, seed: Some(3), ..SamplingParams::default() };
    request.limits.max_tokens = Some(8);
    request.answer.choices = 3;
    check(&request);
}

#[test]
fn a_stop_string_is_found_across_the_place_where_it_stopped() {
    let mut request = request("What is the capital of France?");
    request.limits.stop = vec!["France is".to_owned()];
    let whole = check(&request);
    assert_eq!(whole.reason, FinishReason::Stop);
}

#[test]
fn a_grammar_is_followed_to_its_end() {
    let mut request = request("Describe Rome as JSON.");
    let schema = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "old": {"type": "boolean"}},
        "required": ["city", "old"],
        "additionalProperties": false,
    });
    request.answer.grammar = Some(Grammar::JsonSchema(schema.to_string()));
    let whole = check(&request);
    let text = &told(&whole.deltas)[&0].0;
    assert!(serde_json::from_str::<Value>(text).is_ok_and(|value| value["old"].is_boolean()), "{text}");
}

#[test]
fn tokens_that_the_model_has_not_are_refused() {
    let mut request = request("Hello");
    request.answer.resumed = vec![vec![1_000_000]];
    let error = ask(&*engine(), request).expect_err("there is no such token");
    assert!(matches!(&error, GenerateError::Invalid(rule) if rule.contains("token 1000000")), "{error}");
}
