//! Markup told apart, however the output is cut into pieces.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn tools() -> Vec<String> {
    vec!["weather".into(), "time".into()]
}

/// What comes of `output` in pieces that end at `cuts`: text, reasoning, and calls as (name, arguments).
fn split(mut splitter: Splitter, output: &str, cuts: &[usize]) -> (String, String, Vec<(String, String)>) {
    let mut parts = Vec::new();
    let mut from = 0;
    let ends = output.char_indices().map(|(at, _)| at).filter(|at| cuts.contains(at));
    for to in ends.chain([output.len()]).collect::<Vec<_>>() {
        parts.push(splitter.push(&output[from..to]));
        from = to;
    }
    parts.push(splitter.finish());
    let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    for part in parts {
        text.push_str(&part.text);
        reasoning.push_str(&part.reasoning);
        for call in part.calls {
            if let Some(name) = call.name {
                assert_eq!(call.index as usize, calls.len());
                calls.push((name, String::new()));
            }
            calls[call.index as usize].1.push_str(&call.arguments);
        }
    }
    (text, reasoning, calls)
}

fn calls(markup: CallMarkup) -> Splitter {
    Splitter::new(Some(markup), tools(), false, false)
}

fn thinking(begun: bool) -> Splitter {
    Splitter::new(None, Vec::new(), true, begun)
}

fn owned(text: &str, reasoning: &str, calls: &[(&str, &str)]) -> (String, String, Vec<(String, String)>) {
    let calls = calls.iter().map(|&(name, arguments)| (name.to_owned(), arguments.to_owned())).collect();
    (text.to_owned(), reasoning.to_owned(), calls)
}

type Case =
    (fn() -> Splitter, &'static str, (&'static str, &'static str, &'static [(&'static str, &'static str)]));

/// Every output and what it is told apart into.
const CASES: &[Case] = &[
    (|| calls(CallMarkup::Hermes), "Just <b>text</b>, 1 < 2.\n", ("Just <b>text</b>, 1 < 2.\n", "", &[])),
    (
        || calls(CallMarkup::Hermes),
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln }\\\" </tool_call>\"}}\n</tool_call>",
        ("", "", &[("weather", "{\"city\": \"Köln }\\\" </tool_call>\"}")]),
    ),
    (
        || calls(CallMarkup::Hermes),
        "Let me see.\n<tool_call>{\"arguments\": {\"a\": [1, {}]}, \"name\": \"weather\"}</tool_call>\n<tool_call>{\"name\":\"time\",\"arguments\":{}}</tool_call>\n",
        ("Let me see.", "", &[("weather", "{\"a\": [1, {}]}"), ("time", "{}")]),
    ),
    (
        || calls(CallMarkup::Hermes),
        "<tool_call>[{\"name\": \"time\", \"arguments\": {}}, {\"name\": \"weather\", \"arguments\": {\"x\": 1}}]</tool_call>",
        ("", "", &[("time", "{}"), ("weather", "{\"x\": 1}")]),
    ),
    // Of no tool there is, no JSON, and cut short: text as it was written.
    (
        || calls(CallMarkup::Hermes),
        "A <tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>",
        ("A <tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>", "", &[]),
    ),
    (|| calls(CallMarkup::Hermes), "The <tool_call> tag.", ("The <tool_call> tag.", "", &[])),
    (|| calls(CallMarkup::Hermes), "<tool_call>{\"na", ("<tool_call>{\"na", "", &[])),
    (|| calls(CallMarkup::Hermes), "Half <tool_c", ("Half <tool_c", "", &[])),
    (
        || calls(CallMarkup::Hermes),
        "<tool_call>{\"name\": \"time\", \"arguments\": {\"zo",
        ("", "", &[("time", "{\"zo")]),
    ),
    (
        || calls(CallMarkup::Mistral),
        "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Bonn\"}}, {\"name\": \"time\", \"arguments\": {}}]",
        ("", "", &[("weather", "{\"city\": \"Bonn\"}"), ("time", "{}")]),
    ),
    (
        || calls(CallMarkup::Llama3),
        "\n{\"type\": \"function\", \"name\": \"weather\", \"parameters\": {\"n\": 1.5e3}}; {\"name\": \"time\", \"parameters\": {}}",
        ("", "", &[("weather", "{\"n\": 1.5e3}"), ("time", "{}")]),
    ),
    (
        || calls(CallMarkup::Llama3),
        "<|python_tag|>{\"name\": \"time\", \"parameters\": {}}",
        ("", "", &[("time", "{}")]),
    ),
    (|| calls(CallMarkup::Llama3), "{\"a\": 1}", ("{\"a\": 1}", "", &[])),
    (|| calls(CallMarkup::Llama3), "Use {x}.", ("Use {x}.", "", &[])),
    (|| thinking(false), "<think>\nHm, 1 < 2.\n</think>\n\nYes.", ("Yes.", "Hm, 1 < 2.", &[])),
    (|| thinking(true), "Hm.\n</think>\n\nYes. ", ("Yes. ", "Hm.", &[])),
    (|| thinking(true), "Hm, still", ("", "Hm, still", &[])),
    (|| thinking(false), "No <think> here.", ("No <think> here.", "", &[])),
    (|| thinking(false), " plain", (" plain", "", &[])),
    (
        || Splitter::new(Some(CallMarkup::Hermes), tools(), true, false),
        "<think>\nCall it.\n</think>\n\n<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>",
        ("", "Call it.", &[("time", "{}")]),
    ),
];

#[test]
fn output_is_told_apart() {
    for (splitter, output, (text, reasoning, calls)) in CASES {
        assert_eq!(split(splitter(), output, &[]), owned(text, reasoning, calls), "{output}");
    }
}

proptest! {
    #[test]
    fn pieces_of_any_size_come_to_the_same(
        case in 0..CASES.len(),
        cuts in prop::collection::vec(0_usize..200, 0..200),
    ) {
        let (splitter, output, _) = CASES[case];
        prop_assert_eq!(split(splitter(), output, &cuts), split(splitter(), output, &[]));
    }
}

#[test]
fn markup_shows_in_the_template() {
    let calls = |template: &str| Markup::of_template(template).calls;
    assert_eq!(calls("{% if tools %}<tool_call>"), Calls::Known(CallMarkup::Hermes));
    assert_eq!(calls("[AVAILABLE_TOOLS] {{ tools }} [TOOL_CALLS]"), Calls::Known(CallMarkup::Mistral));
    assert_eq!(calls("{{ tools }} [TOOL_CALLS]x[ARGS]"), Calls::Unknown);
    assert_eq!(calls("Environment: ipython {{ tools }}"), Calls::Known(CallMarkup::Llama3));
    assert_eq!(calls("{{ tools }} somehow"), Calls::Unknown);
    assert_eq!(calls("{{ messages }}"), Calls::Untaught);
    assert!(Markup::of_template("a</think>").thinks);
}

#[test]
fn a_model_without_tools_in_its_template_is_told_of_them() {
    let call = json!({"id": "1", "type": "function", "function": {"name": "time", "arguments": "{\"zone\":\"CET\"}"}});
    let chat = crate::ChatPrompt {
        messages: json!([
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "noon"},
        ]),
        tools: json!([{"type": "function", "function": {"name": "time"}}]),
        variables: serde_json::Value::Null,
    };
    let taught = taught(&chat);
    let content = |index: usize| taught.messages[index]["content"].as_str().expect("text").to_owned();
    assert!(taught.tools.is_null());
    assert!(
        content(0).contains("<tools>\n{\"type\":\"function\",\"function\":{\"name\":\"time\"}}\n</tools>")
    );
    assert_eq!(content(1), "Hi");
    let call = "<tool_call>\n{\"name\":\"time\",\"arguments\":{\"zone\":\"CET\"}}\n</tool_call>";
    assert_eq!(content(2), call);
    assert_eq!(content(3), "<tool_response>\nnoon\n</tool_response>");
    assert_eq!(taught.messages[3]["role"], "user");
}
