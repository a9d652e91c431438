//! Every field of both requests: accepted, refused by name, or refused by value.

use mlxcel_protocol::v1::generate_request::Prompt;
use serde_json::{Value, json};

use super::error::ApiError;
use super::{chat_request, completion_request};

fn chat(change: &Value) -> Result<chat_request::Parsed, ApiError> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    apply(&mut body, change);
    chat_request::parse(body.to_string().as_bytes())
}

fn text(change: &Value) -> Result<chat_request::Parsed, ApiError> {
    let mut body = json!({"model": "m", "prompt": "hi"});
    apply(&mut body, change);
    completion_request::parse(body.to_string().as_bytes())
}

fn apply(body: &mut Value, change: &Value) {
    for (key, value) in change.as_object().expect("an object") {
        body[key] = value.clone();
    }
}

fn refused(result: Result<chat_request::Parsed, ApiError>, what: &Value) -> (String, String) {
    let Err(error) = result else { panic!("accepted: {what}") };
    assert_eq!(error.status, 400);
    let param = error.body.param.unwrap_or_else(|| panic!("no field named for {what}"));
    // The message, read without the body, names the field as well.
    assert!(error.body.message.contains(param.split(['.', '[']).next().expect("first")), "{what}");
    (param, error.body.code.unwrap_or("").to_owned())
}

#[test]
fn unsupported_options_of_chat_are_refused_by_name() {
    let cases = json!([
        {"store": true}, {"audio": {"voice": "x"}},
        {"response_format": {"type": "json_object"}}, {"modalities": ["text", "audio"]},
        {"response_format": {"type": "json_schema", "json_schema": {}}}, {"prediction": {}},
        {"tools": [{"type": "function"}]}, {"functions": [{}]}, {"tool_choice": "required"},
        {"tool_choice": {"type": "function"}}, {"function_call": {"name": "f"}},
        {"reasoning_effort": "low"}, {"verbosity": "low"}, {"web_search_options": {}},
        {"service_tier": "flex"}, {"guided_json": {}}, {"min_tokens": 4},
    ]);
    for case in cases.as_array().expect("array") {
        let (param, code) = refused(chat(case), case);
        let field = case.as_object().and_then(|o| o.keys().next()).expect("one field");
        assert_eq!((&param, code.as_str()), (field, "unsupported_parameter"), "{case}");
    }
}

#[test]
fn unsupported_options_of_completions_are_refused_by_name() {
    let cases = json!([
        {"best_of": 2}, {"echo": true}, {"suffix": "x"},
        {"prompt": ["a", "b"]}, {"prompt": [[1], [2]]},
    ]);
    for case in cases.as_array().expect("array") {
        let (param, code) = refused(text(case), case);
        let field = case.as_object().and_then(|o| o.keys().next()).expect("one field");
        assert_eq!((&param, code.as_str()), (field, "unsupported_parameter"), "{case}");
    }
}

#[test]
fn unknown_fields_are_refused_by_name_wherever_they_are() {
    let message = |extra: Value| {
        let mut message = json!({"role": "user", "content": "hi"});
        apply(&mut message, &extra);
        json!({"messages": [message]})
    };
    let cases = [
        (json!({"temprature": 1}), "temprature"),
        (json!({"max_new_tokens": null}), "max_new_tokens"),
        (message(json!({"colour": "red"})), "messages[0].colour"),
        (
            message(json!({"content": [{"type": "text", "text": "x", "size": 1}]})),
            "messages[0].content[0].size",
        ),
        (json!({"stream": true, "stream_options": {"x": 1}}), "stream_options.x"),
    ];
    for (case, field) in cases {
        assert_eq!(refused(chat(&case), &case), (field.into(), "unknown_parameter".into()));
    }
}

#[test]
fn values_out_of_range_or_of_the_wrong_type_are_refused_by_name() {
    let cases = json!([
        {"temperature": -0.1}, {"temperature": 2.1}, {"temperature": "1"}, {"top_p": 0}, {"top_p": 1.1},
        {"top_k": -2}, {"top_k": 1.5}, {"min_p": 1.1}, {"repetition_penalty": 0}, {"repeat_penalty": 0},
        {"frequency_penalty": 2.1}, {"presence_penalty": -2.1}, {"seed": 1.5}, {"seed": 18446744073709551615_u64},
        {"max_tokens": 0}, {"max_tokens": -1}, {"max_completion_tokens": 4294967296_u64}, {"stop": ""},
        {"stop": 1}, {"stop": ["a", ""]}, {"ignore_eos": 1}, {"stream": "yes"}, {"user": 1}, {"priority": 101}, {"priority": "high"},
        {"metadata": "x"}, {"logit_bias": []}, {"logit_bias": {"x": 1}}, {"chat_template_kwargs": []},
        {"messages": []}, {"messages": "hi"}, {"model": 7}, {"repeat_last_n": -1}, {"n": 0}, {"n": 129},
        {"logprobs": 1}, {"top_logprobs": 21}, {"top_logprobs": 2}, {"top_logprobs": true},
    ]);
    for case in cases.as_array().expect("array") {
        let (param, code) = refused(chat(case), case);
        let field = case.as_object().and_then(|o| o.keys().next()).expect("one field");
        assert_eq!((&param, code.as_str()), (field, "invalid_value"), "{case}");
    }
    for case in [json!({"logprobs": 6}), json!({"logprobs": true})] {
        assert_eq!(refused(text(&case), &case), ("logprobs".into(), "invalid_value".into()));
    }
    for case in [json!({"logit_bias": {"5": 101}}), json!({"logit_bias": {"5": "x"}})] {
        assert_eq!(refused(chat(&case), &case).0, "logit_bias.5");
    }
}

#[test]
fn messages_that_cannot_be_served_are_refused_at_their_place() {
    let image = json!({"type": "image_url", "image_url": {"url": "data:,"}});
    let cases = [
        (json!([{"role": "user", "content": [image]}]), "messages[0].content[0].type"),
        (json!([{"role": "tool", "content": "x", "tool_call_id": "1"}]), "messages[0].role"),
        (json!([{"role": "king", "content": "x"}]), "messages[0].role"),
        (json!([{"content": "x"}]), "messages[0].role"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": null}]), "messages[0].content"),
        (json!([{"role": "user", "content": []}]), "messages[0].content"),
        (json!([{"role": "user", "content": 7}]), "messages[0].content"),
        (json!([{"role": "assistant", "content": "x", "tool_calls": [{}]}]), "messages[0].tool_calls"),
        (json!(["hi"]), "messages[0]"),
    ];
    for (messages, field) in cases {
        let case = json!({"messages": messages});
        assert_eq!(refused(chat(&case), &case).0, field);
    }
}

#[test]
fn harmless_options_that_clients_send_are_accepted() {
    let parsed = chat(&json!({
        "n": 1, "store": false, "user": "ann", "metadata": {"a": "b"}, "service_tier": "auto",
        "response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "parallel_tool_calls": true,
        "logprobs": false, "top_logprobs": 0, "modalities": ["text"], "audio": null, "stop": null,
        "stream": true, "stream_options": {"include_usage": true, "include_obfuscation": false},
        "safety_identifier": "x", "prompt_cache_key": "y", "seed": 1, "logit_bias": {},
    }))
    .expect("accepted");
    assert!(parsed.streaming.on && parsed.streaming.include_usage);
    // An answer handed back as it came.
    let message = json!({
        "role": "assistant", "content": "x", "refusal": null, "annotations": [], "audio": null,
        "function_call": null, "tool_calls": null,
    });
    chat(&json!({"messages": [message]})).expect("accepted");
}

#[test]
fn priority_and_user_decide_whose_turn_it_is() {
    let turn = |change: Value| {
        let generate = chat(&change).expect("accepted").generate;
        (generate.priority, generate.client)
    };
    assert_eq!(turn(json!({})), (0, String::new()));
    assert_eq!(turn(json!({"priority": -100, "user": "ann"})), (-100, "ann".into()));
    assert_eq!(turn(json!({"safety_identifier": "bob"})), (0, "bob".into()));
    assert_eq!(text(&json!({"prompt": "x", "priority": 7})).expect("accepted").generate.priority, 7);
}

#[test]
fn choices_and_logprobs_reach_the_request() {
    let asked = |parsed: chat_request::Parsed| (parsed.generate.choices, parsed.generate.logprobs);
    assert_eq!(asked(chat(&json!({})).expect("accepted")), (1, None));
    assert_eq!(asked(chat(&json!({"n": 3, "logprobs": true})).expect("accepted")), (3, Some(0)));
    let case = json!({"logprobs": true, "top_logprobs": 20});
    assert_eq!(asked(chat(&case).expect("accepted")), (1, Some(20)));
    assert_eq!(asked(text(&json!({"n": 2, "best_of": 2, "logprobs": 0})).expect("accepted")), (2, Some(0)));
}

#[test]
fn options_of_streams_need_a_stream() {
    let case = json!({"stream_options": {"include_usage": true}});
    assert_eq!(refused(chat(&case), &case).0, "stream_options");
}

#[test]
fn token_limit_has_two_names_that_must_agree() {
    let limit = |change: Value| chat(&change).expect("accepted").generate.max_tokens;
    assert_eq!(limit(json!({})), 0);
    assert_eq!(limit(json!({"max_tokens": 5})), 5);
    assert_eq!(limit(json!({"max_completion_tokens": 5, "max_tokens": 5})), 5);
    let case = json!({"max_completion_tokens": 5, "max_tokens": 6});
    assert_eq!(refused(chat(&case), &case).0, "max_tokens");
}

#[test]
fn absent_sampling_takes_openai_defaults() {
    let sampling = chat(&json!({})).expect("accepted").generate.sampling.expect("sampling");
    assert_eq!((sampling.temperature, sampling.top_p), (Some(1.0), Some(1.0)));
    assert_eq!((sampling.top_k, sampling.seed, sampling.repetition_penalty), (None, None, None));
}

#[test]
fn one_prompt_in_any_form_is_read() {
    let prompt = |value: Value| text(&json!({"prompt": value})).expect("accepted").generate.prompt;
    let tokens = |prompt| match prompt {
        Some(Prompt::Tokens(tokens)) => tokens.ids,
        other => panic!("not tokens: {other:?}"),
    };
    assert_eq!(prompt(json!("a")), Some(Prompt::Text("a".into())));
    assert_eq!(prompt(json!(["a"])), Some(Prompt::Text("a".into())));
    assert_eq!(tokens(prompt(json!([1, 2]))), [1, 2]);
    assert_eq!(tokens(prompt(json!([[1, 2]]))), [1, 2]);
    for (wrong, field) in [
        (json!([]), "prompt"),
        (json!([[]]), "prompt"),
        (json!([1, -2]), "prompt[1]"),
        (json!([1, "a"]), "prompt[1]"),
        (json!([[["a"]]]), "prompt"),
        (json!(7), "prompt"),
    ] {
        let case = json!({"prompt": wrong});
        assert_eq!(refused(text(&case), &case).0, field, "{case}");
    }
}
