//! Chat templates render as Hugging Face transformers renders them.
//!
//! `text_chat/cases.json` is written by `text_chat/expected.py`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use mlxcel_engine::text::{PromptError, TextAssets, TextCodec};
use mlxcel_engine::{ChatPrompt, Prompt};
use serde_json::{Value, json};

/// 2025-03-09 08:07:06 UTC.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_741_507_626)
}

fn template(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/text_chat/{name}"));
    std::fs::read_to_string(path).expect("the template is part of the sources")
}

fn codec(template: Option<String>) -> TextCodec {
    let tokenizer = json!({
        "version": "1.0",
        "model": { "type": "WordLevel", "vocab": { "<unk>": 0, "a": 1 }, "unk_token": "<unk>" },
        "pre_tokenizer": { "type": "Whitespace" }
    });
    let assets = TextAssets {
        source: "test".into(),
        tokenizer: tokenizer.to_string().into_bytes(),
        chat_template: template,
        bos_token: Some("<s>".into()),
        eos_token: Some("</s>".into()),
        ..TextAssets::default()
    };
    TextCodec::new(&assets, 2).expect("the tokenizer is usable")
}

fn chat(messages: Value) -> ChatPrompt {
    ChatPrompt { messages, ..ChatPrompt::default() }
}

fn render(source: &str, messages: Value) -> Result<String, PromptError> {
    codec(Some(source.into())).render_chat_at(&chat(messages), now())
}

fn user() -> Value {
    json!([{ "role": "user", "content": "hi" }])
}

#[test]
fn templates_render_as_in_transformers() {
    let cases: Vec<Value> = serde_json::from_str(&template("cases.json")).expect("JSON");
    assert!(!cases.is_empty());
    for (index, case) in cases.iter().enumerate() {
        let name = case["template"].as_str().expect("a name");
        let chat = ChatPrompt {
            messages: case["messages"].clone(),
            tools: case["tools"].clone(),
            variables: case["variables"].clone(),
        };
        let codec = codec(Some(template(&format!("{name}.jinja"))));
        let rendered = codec.render_chat_at(&chat, now());
        match case["expected"].as_str() {
            Some(expected) => {
                assert_eq!(rendered.as_deref(), Ok(expected), "case {index}, {name}");
            }
            None => {
                let message = case["error"].as_str().expect("an error").to_owned();
                assert_eq!(rendered, Err(PromptError::Template(message)), "case {index}, {name}");
            }
        }
    }
}

#[test]
fn smollm2_prompt_has_its_default_system_message() {
    let question = json!([{ "role": "user", "content": "What is the capital of France?" }]);
    let rendered = render(&template("smollm2.jinja"), question);
    let expected = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by \
                    Hugging Face<|im_end|>\n<|im_start|>user\nWhat is the capital of France?\
                    <|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(rendered.as_deref(), Ok(expected));
}

#[test]
fn refusal_of_a_template_is_one_line_in_its_own_words() {
    let error = render("{{ raise_exception('no\\n  luck') }}", user()).expect_err("raised");
    assert_eq!(error.to_string(), "chat template: no luck");
}

#[test]
fn refusal_inside_a_macro_keeps_its_words() {
    let source = "{% macro m() %}{{ raise_exception('stop') }}{% endmacro %}{{ m() }}";
    assert_eq!(render(source, user()), Err(PromptError::Template("stop".into())));
}

#[test]
fn failing_expression_names_its_line() {
    let error = render("\n{{ nothing.at.all }}", user()).expect_err("undefined");
    assert!(error.to_string().ends_with("(line 2)"), "{error}");
}

#[test]
fn template_that_does_not_parse_fails_chats_but_not_plain_text() {
    let codec = codec(Some("{% if %}".into()));
    let error = codec.render_chat(&chat(user())).expect_err("broken");
    assert!(matches!(error, PromptError::BrokenTemplate(_)), "{error}");
    assert_eq!(codec.encode_prompt(&Prompt::Text("a".into())), Ok(vec![1]));
}

#[test]
fn chat_without_a_template_is_refused() {
    assert_eq!(codec(None).render_chat(&chat(user())), Err(PromptError::NoTemplate));
}

#[test]
fn malformed_conversations_are_refused_by_field() {
    let cases = [
        (json!([]), "messages must be a list of at least one message"),
        (json!("hi"), "messages must be a list of at least one message"),
        (json!([{ "content": "hi" }]), "messages[0].role must be a string"),
        (
            json!([{ "role": "user", "content": 7 }]),
            "messages[0].content must be a string, a list of parts or null",
        ),
        (
            json!([{ "role": "user", "content": [{ "type": "image_url" }] }]),
            "messages[0].content[0] must be a text part, got type image_url",
        ),
    ];
    for (messages, expected) in cases {
        let error = render("{{ messages[0].content }}", messages).expect_err("malformed");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn variables_must_not_replace_the_conversation() {
    let chat = ChatPrompt { messages: user(), variables: json!({ "messages": [] }), ..ChatPrompt::default() };
    let error = codec(Some(String::new())).render_chat(&chat).expect_err("refused");
    assert_eq!(error.to_string(), "template variables must not replace messages");
}

#[test]
fn conversations_with_tools_use_the_template_for_tools() {
    let assets = |tool_template: Option<&str>| TextAssets {
        chat_template: Some("plain".into()),
        tool_template: tool_template.map(str::to_owned),
        tokenizer: json!({
            "model": { "type": "WordLevel", "vocab": { "a": 0 }, "unk_token": "a" }
        })
        .to_string()
        .into_bytes(),
        ..TextAssets::default()
    };
    let both = TextCodec::new(&assets(Some("tools")), 1).expect("usable");
    let with_tools = ChatPrompt { tools: json!([{}]), ..chat(user()) };
    assert_eq!(both.render_chat(&with_tools).as_deref(), Ok("tools"));
    assert_eq!(both.render_chat(&chat(user())).as_deref(), Ok("plain"));
    let one = TextCodec::new(&assets(None), 1).expect("usable");
    assert_eq!(one.render_chat(&with_tools).as_deref(), Ok("plain"));
}

#[test]
fn json_options_follow_python() {
    let source = "{{ {'b': 'é', 'a': [1, {}]} | tojson(ensure_ascii=true, sort_keys=true) }}|\
                  {{ {'b': [1], 'a': []} | tojson(indent=2) }}|\
                  {{ [1, 2] | tojson(separators=(',', ':')) }}|{{ '<&>' | tojson }}";
    let expected =
        "{\"a\": [1, {}], \"b\": \"\\u00e9\"}|{\n  \"b\": [\n    1\n  ],\n  \"a\": []\n}|[1,2]|\"<&>\"";
    assert_eq!(render(source, user()).as_deref(), Ok(expected));
}

#[test]
fn none_is_not_iterable_but_a_string_is_a_sequence() {
    let source = "{{ none is iterable }} {{ none is sequence }} {{ 'a' is sequence }}";
    assert_eq!(render(source, user()).as_deref(), Ok("False False True"));
}

#[test]
fn unknown_date_format_is_an_error() {
    let error = render("{{ strftime_now('%Q') }}", user()).expect_err("unknown format");
    assert!(error.to_string().contains("does not know the format"), "{error}");
}
