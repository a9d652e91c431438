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
        {"store": true}, {"audio": {"voice": "x"}}, {"modalities": ["text", "audio"]}, {"prediction": {}},
        {"functions": [{}]}, {"function_call": {"name": "f"}}, {"reasoning_effort": "low"},
        {"verbosity": "low"}, {"web_search_options": {}}, {"service_tier": "flex"}, {"guided_json": {}},
        {"guided_regex": "a"}, {"guided_choice": ["a"]}, {"guided_grammar": "start: /a/"}, {"min_tokens": 4},
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
        (json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
        (json!([{"role": "function", "content": "x", "name": "f"}]), "messages[0].role"),
        (json!([{"role": "user", "content": "x", "tool_calls": [{}]}]), "messages[0].tool_calls"),
        (json!([{"role": "king", "content": "x"}]), "messages[0].role"),
        (json!([{"content": "x"}]), "messages[0].role"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": null}]), "messages[0].content"),
        (json!([{"role": "user", "content": []}]), "messages[0].content"),
        (json!([{"role": "user", "content": 7}]), "messages[0].content"),
        (json!([{"role": "assistant", "content": "x", "tool_calls": [{}]}]), "messages[0].tool_calls[0].id"),
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

#[test]
fn the_form_of_an_answer_reaches_the_request() {
    use mlxcel_protocol::v1::grammar::{Choices, Kind};
    let kind = |change: Value| {
        let [chat, text] =
            [chat(&change), text(&change)].map(|parsed| parsed.expect("accepted").generate.grammar);
        assert_eq!(chat, text, "{change}");
        chat.and_then(|grammar| grammar.kind)
    };
    let schema = json!({"type": "object"});
    let format = json!({"name": "x", "strict": true, "schema": schema});
    let cases = [
        (json!({"response_format": {"type": "text"}}), None),
        (json!({"response_format": {"type": "json_object"}}), Some(Kind::JsonObject(true))),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": format}}),
            Some(Kind::JsonSchema(schema.to_string())),
        ),
        (json!({"structured_outputs": {"json": schema}}), Some(Kind::JsonSchema(schema.to_string()))),
        (json!({"structured_outputs": {"json": "{}"}}), Some(Kind::JsonSchema("{}".into()))),
        (json!({"structured_outputs": {"regex": "a+"}}), Some(Kind::Regex("a+".into()))),
        (json!({"structured_outputs": {"grammar": "start: /a/"}}), Some(Kind::Lark("start: /a/".into()))),
        (
            json!({"structured_outputs": {"choice": ["a", "b"]}}),
            Some(Kind::Choices(Choices { texts: vec!["a".into(), "b".into()] })),
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(kind(change.clone()), expected, "{change}");
    }
    for (case, field) in [
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
            "response_format.json_schema.name",
        ),
        (json!({"structured_outputs": {}}), "structured_outputs"),
        (json!({"structured_outputs": {"regex": "a", "json": {}}}), "structured_outputs"),
        (json!({"structured_outputs": {"structural_tag": "x"}}), "structured_outputs.structural_tag"),
        (json!({"structured_outputs": {"choice": [1]}}), "structured_outputs.choice"),
        (
            json!({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}),
            "structured_outputs",
        ),
    ] {
        assert_eq!(refused(chat(&case), &case).0, field, "{case}");
    }
}

#[test]
fn repetition_detection_reaches_the_request() {
    let limit = |change: Value| {
        let parsed = chat(&json!({"repetition_detection": change})).expect("accepted");
        parsed.generate.repetition.map(|limit| (limit.max_pattern, limit.min_pattern, limit.min_count))
    };
    assert_eq!(limit(json!({"max_pattern_size": 0})), None);
    assert_eq!(limit(json!({"max_pattern_size": 8, "min_count": 4})), Some((8, 1, 4)));
    for (change, field) in [
        (json!({"max_pattern_size": 8}), "repetition_detection.min_count"),
        (json!({"max_pattern_size": 8, "min_count": 1}), "repetition_detection.min_count"),
        (
            json!({"max_pattern_size": 8, "min_pattern_size": 9, "min_count": 2}),
            "repetition_detection.min_pattern_size",
        ),
        (json!({"max_pattern_size": 257, "min_count": 2}), "repetition_detection.max_pattern_size"),
    ] {
        let case = json!({"repetition_detection": change});
        assert_eq!(refused(chat(&case), &case).0, field);
    }
}

#[test]
fn tools_and_the_choice_among_them_reach_the_request() {
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}, "strict": true}}]);
    let asked = |choice: Value| {
        let body = json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": false});
        let generate = chat(&body).expect("accepted").generate;
        let Some(Prompt::Chat(prompt)) = generate.prompt else { panic!("not a chat") };
        (!prompt.tools_json.is_empty(), generate.tool_required, generate.tool_named, generate.single_call)
    };
    assert_eq!(asked(json!("auto")), (true, false, String::new(), true));
    assert_eq!(asked(json!("none")), (false, false, String::new(), false));
    assert_eq!(asked(json!("required")), (true, true, String::new(), true));
    let named = json!({"type": "function", "function": {"name": "f"}});
    assert_eq!(asked(named), (true, false, "f".into(), true));
    let other = json!({"type": "function", "function": {"name": "g"}});
    for (case, field) in [
        (json!({"tools": tools, "tool_choice": other}), "tool_choice"),
        (json!({"tools": tools, "tool_choice": "maybe"}), "tool_choice"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": [{"type": "retrieval"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"tools": [{"type": "function", "function": {"name": ""}}]}), "tools[0].function.name"),
    ] {
        assert_eq!(refused(chat(&case), &case).0, field, "{case}");
    }
}

#[test]
fn conversations_may_hold_calls_and_their_answers() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let messages = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "content": "done", "tool_call_id": "c"},
    ]);
    let generate = chat(&json!({"messages": messages})).expect("accepted").generate;
    let Some(Prompt::Chat(prompt)) = generate.prompt else { panic!("not a chat") };
    let sent: Value = serde_json::from_str(&prompt.messages_json).expect("JSON");
    assert_eq!(sent[1]["tool_calls"], json!([call]));
    assert_eq!(sent[2], json!({"role": "tool", "content": "done", "tool_call_id": "c"}));
}
