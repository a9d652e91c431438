//! Answers that obey a grammar, call tools or go round in circles, from a model that speaks.

#![allow(clippy::expect_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use mlxcel_engine::{
    AnswerOptions, ChatPrompt, DeviceChoice, Engine, Event, FinishReason, GenerateError, Grammar, Limits,
    LoadOptions, Prompt, RepetitionLimit, Request, SamplingParams, ToolChoice, Turn, load,
};
use serde_json::{Value, json};

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn engine() -> Box<dyn Engine> {
    let path = std::env::var_os("MLXCEL_TEST_SMOLLM2")
        .map(PathBuf::from)
        .expect("MLXCEL_TEST_SMOLLM2 names SmolLM2-135M-Instruct; `./x test` sets it");
    let options =
        LoadOptions { device: DeviceChoice::Cpu, context_tokens: Some(1024), ..LoadOptions::default() };
    load(&path, &options, &mut |_| {}).expect("the model loads")
}

fn request(question: &str, seed: u64, answer: AnswerOptions) -> Request {
    let messages = json!([{"role": "user", "content": question}]);
    Request {
        id: format!("{question} {seed}"),
        prompt: Prompt::Chat(ChatPrompt { messages, ..ChatPrompt::default() }),
        sampling: SamplingParams { temperature: 1.0, seed: Some(seed), ..SamplingParams::default() },
        limits: Limits { max_tokens: Some(400), ..Limits::default() },
        turn: Turn::default(),
        answer,
    }
}

fn grammar(grammar: Grammar) -> AnswerOptions {
    AnswerOptions { grammar: Some(grammar), ..AnswerOptions::default() }
}

#[derive(Debug, Default)]
struct Answer {
    text: String,
    tokens: usize,
    calls: Vec<(String, String)>,
    ids: Vec<String>,
}

fn submit(engine: &dyn Engine, request: Request) -> Receiver<Event> {
    let (sender, events) = channel();
    engine.submit(request, Box::new(move |event| drop(sender.send(event))));
    events
}

fn collect(events: &Receiver<Event>) -> (Answer, Result<FinishReason, GenerateError>) {
    let mut answer = Answer::default();
    loop {
        match events.recv_timeout(PATIENCE).expect("every request ends") {
            Event::Started { .. } => {}
            Event::Delta(delta) => {
                answer.text.push_str(&delta.text);
                answer.tokens += delta.token_ids.len();
                for call in delta.tool_calls {
                    if let (Some(name), Some(id)) = (call.name, call.id) {
                        answer.calls.push((name, String::new()));
                        answer.ids.push(id);
                    }
                    answer.calls[call.index as usize].1.push_str(&call.arguments);
                }
            }
            Event::Finished(finish) => return (answer, Ok(finish.reason)),
            Event::Failed(error) => return (answer, Err(error)),
        }
    }
}

fn ask(engine: &dyn Engine, request: Request) -> (Answer, FinishReason) {
    let (answer, ended) = collect(&submit(engine, request));
    (answer, ended.expect("it ends well"))
}

const QUESTIONS: [&str; 3] = ["Describe a person.", "What is the capital of France?", "Sing!"];

#[test]
fn sampled_answers_obey_a_schema_side_by_side() {
    let engine = engine();
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    });
    let options = grammar(Grammar::JsonSchema(schema.to_string()));
    let running: Vec<_> = QUESTIONS
        .iter()
        .flat_map(|question| (0..3).map(|seed| request(question, seed, options.clone())))
        .map(|request| submit(engine.as_ref(), request))
        .collect();
    for events in running {
        let (answer, ended) = collect(&events);
        assert_eq!(ended, Ok(FinishReason::Stop), "{}", answer.text);
        let value: Value = serde_json::from_str(&answer.text).expect(&answer.text);
        assert!(value["name"].is_string() && value["tags"].is_array(), "{value}");
        assert!(value["age"].as_u64().is_some_and(|age| age <= 150), "{value}");
        assert_eq!(value.as_object().map(|object| object.len()), Some(3), "{value}");
    }
}

#[test]
fn other_grammars_are_obeyed_too() {
    let engine = engine();
    type Holds = fn(&str) -> bool;
    let cases: [(Grammar, Holds); 4] = [
        (Grammar::Regex("[a-c]{3}-[0-9]+".into()), |text| {
            text.split_once('-').is_some_and(|(letters, digits)| {
                letters.len() == 3
                    && letters.bytes().all(|byte| (b'a'..=b'c').contains(&byte))
                    && digits.parse::<u128>().is_ok()
            })
        }),
        (Grammar::Choice(vec!["yes".into(), "no \"maybe\"\n".into()]), |text| {
            ["yes", "no \"maybe\"\n"].contains(&text)
        }),
        (Grammar::Lark("start: \"<\" /[a-z]{1,5}/ \">\"".into()), |text| {
            text.starts_with('<') && text.ends_with('>') && (3..8).contains(&text.len())
        }),
        (Grammar::JsonObject, |text| {
            serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
        }),
    ];
    for (language, holds) in cases {
        let (answer, reason) = ask(engine.as_ref(), request("Say something.", 4, grammar(language.clone())));
        // Numbers and objects may go on for as long as they like.
        let whole = reason == FinishReason::Stop;
        assert!(whole || matches!(language, Grammar::Regex(_) | Grammar::JsonObject), "{answer:?}");
        assert!(!whole || holds(&answer.text), "{language:?}: {answer:?}");
    }
}

#[test]
fn a_grammar_that_cannot_be_followed_is_refused_with_its_reason() {
    let engine = engine();
    let cases = [
        Grammar::Regex("(unclosed".into()),
        Grammar::JsonSchema("{\"type\": \"thing\"}".into()),
        Grammar::JsonSchema("no JSON".into()),
        Grammar::Lark("start: undefined".into()),
        Grammar::Choice(Vec::new()),
    ];
    for language in cases {
        let name = language.name();
        let (_, ended) = collect(&submit(engine.as_ref(), request("Hi", 0, grammar(language))));
        assert!(matches!(&ended, Err(GenerateError::Invalid(text)) if text.starts_with(name)), "{ended:?}");
    }
    let mut endless = request("Hi", 0, grammar(Grammar::JsonObject));
    endless.limits.ignore_eos = true;
    assert!(matches!(collect(&submit(engine.as_ref(), endless)).1, Err(GenerateError::Invalid(_))));
}

fn with_tools(seed: u64, tools: ToolChoice, single_call: bool) -> Request {
    let function = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let city = json!({
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}},
        "required": ["city"],
        "additionalProperties": false,
        "$defs": {"city": {"enum": ["Paris", "Rome"]}},
    });
    let mut request = request(
        "What is the weather in Paris?",
        seed,
        AnswerOptions { tools, single_call, ..AnswerOptions::default() },
    );
    if let Prompt::Chat(chat) = &mut request.prompt {
        let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
        chat.tools = json!([function("weather", city), function("time", none)]);
    }
    request
}

#[test]
fn required_tools_are_called_with_arguments_of_their_schema() {
    let engine = engine();
    for seed in 0..3 {
        let (answer, reason) = ask(engine.as_ref(), with_tools(seed, ToolChoice::Required, true));
        assert_eq!((reason, answer.text.as_str()), (FinishReason::ToolCalls, ""), "{answer:?}");
        assert_eq!((answer.calls.len(), answer.ids[0].len()), (1, 29));
        let (name, arguments) = &answer.calls[0];
        let arguments: Value = serde_json::from_str(arguments).expect("JSON");
        match name.as_str() {
            "weather" => assert!(matches!(arguments["city"].as_str(), Some("Paris" | "Rome"))),
            name => assert_eq!((name, arguments), ("time", json!({}))),
        }
    }
    let (answer, _) = ask(engine.as_ref(), with_tools(1, ToolChoice::Named("time".into()), false));
    assert_eq!(answer.calls, [("time".to_owned(), "{}".to_owned())]);
}

#[test]
fn a_tool_that_is_not_there_cannot_be_required() {
    let engine = engine();
    for tools in [ToolChoice::Named("rain".into()), ToolChoice::Named(String::new())] {
        let (_, ended) = collect(&submit(engine.as_ref(), with_tools(0, tools, false)));
        assert!(matches!(ended, Err(GenerateError::Invalid(text)) if text.contains("not among the tools")));
    }
    let required = AnswerOptions { tools: ToolChoice::Required, ..AnswerOptions::default() };
    let (_, ended) = collect(&submit(engine.as_ref(), request("Hi", 0, required)));
    assert!(matches!(ended, Err(GenerateError::Invalid(text)) if text.contains("no tools")));
}

#[test]
fn output_that_goes_round_in_circles_ends() {
    let engine = engine();
    let limit = RepetitionLimit { max_pattern: 4, min_pattern: 1, min_count: 6 };
    let mut request = request("Sing!", 1, grammar(Grammar::Regex("(la ){200}".into())));
    request.limits.repetition = Some(limit);
    let (answer, reason) = ask(engine.as_ref(), request);
    assert_eq!(reason, FinishReason::Repetition);
    assert!(answer.tokens >= 6 && answer.text.starts_with("la la ") && answer.text.len() < 300, "{answer:?}");
}
