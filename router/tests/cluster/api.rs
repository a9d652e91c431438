//! What clients see of a healthy cluster.

use std::time::Duration;

use hyper::Request;
use mlxcel_protocol::v1::generate_request::Prompt;
use mlxcel_protocol::v1::{ChoiceDelta, FinishReason, ScoredToken, TokenLogprobs, ToolCallDelta};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{self, Sent, content};
use super::node::{Asked, FakeNode};
use super::rig::Rig;

#[tokio::test]
async fn whole_answer_has_text_reason_and_usage() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let answer = rig.chat(json!({"max_tokens": 2}));
    let asked = node.asked().await;
    assert_eq!(asked.request.max_tokens, 2);
    asked.started().await;
    asked.delta("Hel").await;
    asked.delta("lo").await;
    asked.finish(FinishReason::Length, 2).await;
    let answer = answer.await.expect("sent");
    assert_eq!(answer.status, 200);
    let body = answer.json().await;
    assert!(body["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(
        body["choices"],
        json!([{
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": null},
            "logprobs": null,
            "finish_reason": "length",
        }])
    );
    let usage = json!({
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 2},
    });
    assert_eq!(body["usage"], usage);
}

#[tokio::test]
async fn streamed_answer_goes_from_role_to_done() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let answer = rig.chat(options);
    node.asked().await.answer(&["Hel", "", "lo"]).await;
    let mut answer = answer.await.expect("sent");
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let events = answer.events().await;
    let chunks: Vec<&Value> = events
        .iter()
        .filter_map(|e| match e {
            Sent::Json(v) => Some(v),
            Sent::Done => None,
        })
        .collect();
    let deltas: Vec<&Value> = chunks[..4].iter().map(|c| &c["choices"][0]["delta"]).collect();
    let role = json!({"role": "assistant", "content": ""});
    let expected = [&role, &json!({"content": "Hel"}), &json!({"content": "lo"}), &json!({})];
    assert_eq!(deltas, expected);
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "stop");
    assert!(chunks[..4].iter().all(|c| c["usage"].is_null() && c["id"] == chunks[0]["id"]));
    assert_eq!(chunks[4]["choices"], json!([]));
    assert_eq!(chunks[4]["usage"]["total_tokens"], 6);
    assert_eq!(chunks.len(), 5);
    assert_eq!(events.last(), Some(&Sent::Done));
}

fn piece(choice: u32, text: &str) -> ChoiceDelta {
    ChoiceDelta { choice, text: text.into(), ..ChoiceDelta::default() }
}

fn ended(choice: u32, reason: FinishReason) -> ChoiceDelta {
    ChoiceDelta { choice, ended: reason.into(), ..ChoiceDelta::default() }
}

async fn answer_twice(asked: &Asked) {
    asked.started().await;
    asked.deltas(&[piece(0, "Hel")]).await;
    asked.deltas(&[piece(1, "By"), piece(0, "lo")]).await;
    asked.deltas(&[ended(0, FinishReason::Length), piece(1, "e")]).await;
    asked.deltas(&[ended(1, FinishReason::Stop)]).await;
    asked.finish(FinishReason::Stop, 4).await;
}

#[tokio::test]
async fn whole_answer_has_every_choice_in_order() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let answer = rig.chat(json!({"n": 3}));
    let asked = node.asked().await;
    assert_eq!(asked.request.choices, 3);
    answer_twice(&asked).await;
    let body = answer.await.expect("sent").json().await;
    let choices = body["choices"].as_array().expect("choices");
    let told: Vec<_> = choices
        .iter()
        .map(|choice| (&choice["index"], &choice["message"]["content"], &choice["finish_reason"]))
        .collect();
    let expected = [(0, "Hello", "length"), (1, "Bye", "stop"), (2, "", "stop")];
    let expected = expected.map(|(index, text, reason)| (json!(index), json!(text), json!(reason)));
    assert_eq!(told, expected.iter().map(|(i, t, r)| (i, t, r)).collect::<Vec<_>>());
    assert_eq!(body["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn streamed_choices_are_interleaved_and_end_each_for_itself() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let answer = rig.chat(json!({"n": 2, "stream": true}));
    answer_twice(&node.asked().await).await;
    let events = answer.await.expect("sent").events().await;
    let chunks = events.iter().filter_map(|event| match event {
        Sent::Json(chunk) => Some(&chunk["choices"][0]),
        Sent::Done => None,
    });
    let told: Vec<(u64, String)> = chunks
        .map(|choice| {
            let text = choice["delta"]["content"].as_str().or(choice["finish_reason"].as_str());
            (choice["index"].as_u64().expect("an index"), text.unwrap_or("nothing").to_owned())
        })
        .collect();
    let expected = [(0, ""), (1, ""), (0, "Hel"), (1, "By"), (0, "lo"), (0, "length"), (1, "e"), (1, "stop")];
    assert_eq!(told, expected.map(|(index, text)| (index, text.to_owned())));
    assert_eq!(events.last(), Some(&Sent::Done));
}

fn scored(text: &str) -> ChoiceDelta {
    let chosen = ScoredToken { id: 7, bytes: text.into(), logprob: -0.5 };
    let logprobs = vec![TokenLogprobs { chosen: Some(chosen.clone()), top: vec![chosen] }];
    ChoiceDelta { logprobs, ..piece(0, text) }
}

#[tokio::test]
async fn logprobs_come_with_the_text_they_are_of() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    for stream in [false, true] {
        let answer = rig.chat(json!({"logprobs": true, "top_logprobs": 1, "stream": stream}));
        let asked = node.asked().await;
        assert_eq!(asked.request.logprobs, Some(1));
        asked.deltas(&[scored("Hel")]).await;
        asked.deltas(&[scored("lo")]).await;
        asked.finish(FinishReason::Stop, 2).await;
        let mut answer = answer.await.expect("sent");
        let token = |text: &str| {
            let bytes = text.as_bytes();
            let top = json!([{"token": text, "logprob": -0.5, "bytes": bytes}]);
            json!({"token": text, "logprob": -0.5, "bytes": bytes, "top_logprobs": top})
        };
        if stream {
            let events = answer.events().await;
            let Sent::Json(second) = &events[2] else { panic!("no chunk: {events:?}") };
            assert_eq!(second["choices"][0]["delta"]["content"], "lo");
            assert_eq!(second["choices"][0]["logprobs"]["content"], json!([token("lo")]));
        } else {
            let choice = answer.json().await["choices"][0].clone();
            assert_eq!(choice["logprobs"], json!({"content": [token("Hel"), token("lo")], "refusal": null}));
        }
    }
}

#[tokio::test]
async fn offsets_of_a_streamed_completion_s_tokens_count_through() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let body = json!({"model": "m", "prompt": "x", "stream": true, "logprobs": 0});
    let at = rig.at;
    let answer = tokio::spawn(async move { client::post(at, "/v1/completions", &body).await });
    let asked = node.asked().await;
    asked.deltas(&[scored("Hel")]).await;
    asked.deltas(&[scored("lo")]).await;
    asked.finish(FinishReason::Stop, 2).await;
    let mut answer = answer.await.expect("sent");
    assert_eq!(answer.chunk().await["choices"][0]["logprobs"]["text_offset"], json!([0]));
    assert_eq!(answer.chunk().await["choices"][0]["logprobs"]["text_offset"], json!([3]));
}

fn call(index: u32, id: &str, name: &str, arguments: &str) -> ChoiceDelta {
    let (id, name, arguments) = (id.into(), name.into(), arguments.into());
    ChoiceDelta { tool_calls: vec![ToolCallDelta { index, id, name, arguments }], ..ChoiceDelta::default() }
}

#[tokio::test]
async fn reasoning_and_calls_come_beside_the_content() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    for stream in [false, true] {
        let tool = json!({"type": "function", "function": {"name": "f"}});
        let answer = rig.chat(json!({"tools": [tool], "stream": stream}));
        let asked = node.asked().await;
        asked.deltas(&[ChoiceDelta { reasoning: "Hm".into(), ..ChoiceDelta::default() }]).await;
        asked.deltas(&[call(0, "call_1", "f", "{")]).await;
        asked.deltas(&[call(0, "", "", "}")]).await;
        asked.finish(FinishReason::ToolCalls, 3).await;
        let mut answer = answer.await.expect("sent");
        let whole = json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        if !stream {
            let choice = answer.json().await["choices"][0].clone();
            assert_eq!(choice["message"]["tool_calls"], json!([whole]));
            assert_eq!(choice["message"]["reasoning_content"], "Hm");
            assert_eq!(
                (&choice["message"]["content"], &choice["finish_reason"]),
                (&json!(null), &json!("tool_calls"))
            );
            continue;
        }
        let events = answer.events().await;
        let deltas: Vec<&Value> = events
            .iter()
            .filter_map(|event| match event {
                Sent::Json(chunk) => Some(&chunk["choices"][0]["delta"]),
                Sent::Done => None,
            })
            .collect();
        let first = json!([{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}}]);
        let second = json!([{"index": 0, "function": {"arguments": "}"}}]);
        assert_eq!(deltas[1], &json!({"reasoning_content": "Hm"}));
        assert_eq!((&deltas[2]["tool_calls"], &deltas[3]["tool_calls"]), (&first, &second));
    }
}

#[tokio::test]
async fn nothing_is_sent_before_the_first_token() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let mut answer = rig.chat(json!({"stream": true}));
    let asked = node.asked().await;
    asked.started().await;
    let early = tokio::time::timeout(Duration::from_millis(100), &mut answer).await;
    assert!(early.is_err(), "headers came before the first token");
    asked.delta("x").await;
    let mut answer = answer.await.expect("sent");
    assert_eq!(answer.chunk().await["choices"][0]["delta"]["role"], "assistant");
    asked.finish(FinishReason::Stop, 1).await;
    assert_eq!(content(&answer.events().await), "x");
}

#[tokio::test]
async fn chat_reaches_the_node_with_its_sampling() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let answer = rig.chat(json!({
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "hi", "name": "ann"},
        ],
        "top_k": 5, "min_p": 0.1, "seed": -1, "repetition_penalty": 1.5, "logit_bias": {"9": -100},
        "stop": ["END"], "ignore_eos": true, "chat_template_kwargs": {"thinking": false},
    }));
    let asked = node.asked().await;
    let Some(Prompt::Chat(prompt)) = &asked.request.prompt else {
        panic!("not a chat: {:?}", asked.request.prompt)
    };
    let messages: Value = serde_json::from_str(&prompt.messages_json).expect("JSON");
    let expected = json!([
        {"role": "system", "content": "a\nb"},
        {"role": "user", "content": "hi", "name": "ann"},
    ]);
    assert_eq!(messages, expected);
    assert_eq!(prompt.template_variables_json, r#"{"thinking":false}"#);
    let sampling = asked.request.sampling.clone().expect("sampling");
    assert_eq!((sampling.temperature, sampling.top_p), (Some(1.0), Some(1.0)));
    assert_eq!((sampling.top_k, sampling.seed), (Some(5), Some(u64::MAX)));
    assert_eq!((sampling.min_p, sampling.repetition_penalty), (Some(0.1), Some(1.5)));
    assert_eq!(sampling.logit_bias.get(&9), Some(&-100.0));
    assert_eq!(asked.request.stop, ["END"]);
    assert!(asked.request.ignore_eos);
    asked.answer(&["ok"]).await;
    assert_eq!(answer.await.expect("sent").status, 200);
}

#[tokio::test]
async fn a_timeout_reaches_the_node_and_ends_a_request_that_none_can_serve() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let at = rig.at;
    let post = move |millis: &'static str| async move {
        client::post_with(at, &[("x-request-timeout-ms", millis)], &super::rig::chat(json!({}))).await
    };
    let answer = tokio::spawn(post("60000"));
    let asked = node.asked().await;
    assert!((1..=60_000_000).contains(&asked.request.deadline_micros), "{}", asked.request.deadline_micros);
    asked.answer(&["ok"]).await;
    assert_eq!(answer.await.expect("sent").status, 200);

    // The node takes it and says nothing.
    let answer = tokio::spawn(post("50"));
    let _silent = node.asked().await;
    let answer = answer.await.expect("sent");
    assert_eq!(answer.status, 504);
    let error = &answer.json().await["error"];
    assert_eq!(error["code"], "deadline_exceeded");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("50 ms")), "{error}");

    for wrong in ["0", "soon", "86400001"] {
        let answer = post(wrong).await;
        assert_eq!(answer.status, 400);
        let error = &answer.json().await["error"];
        assert!(
            error["message"].as_str().is_some_and(|text| text.contains("x-request-timeout-ms")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn text_completion_takes_token_ids_and_streams() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let body = json!({"model": "m", "prompt": [1, 2, 3], "stream": true});
    let at = rig.at;
    let answer = tokio::spawn(async move { client::post(at, "/v1/completions", &body).await });
    let asked = node.asked().await;
    let Some(Prompt::Tokens(tokens)) = &asked.request.prompt else {
        panic!("not tokens: {:?}", asked.request.prompt)
    };
    assert_eq!((tokens.ids.as_slice(), asked.request.max_tokens), (&[1, 2, 3][..], 16));
    asked.answer(&["one", " two"]).await;
    let events = answer.await.expect("sent").events().await;
    let texts: Vec<&str> = events
        .iter()
        .filter_map(|e| match e {
            Sent::Json(chunk) => chunk["choices"][0]["text"].as_str(),
            Sent::Done => None,
        })
        .collect();
    assert_eq!(texts, ["one", " two", ""]);
    assert_eq!(events.last(), Some(&Sent::Done));
}

#[tokio::test]
async fn requests_alternate_between_equal_nodes() {
    let mut nodes = [FakeNode::with(&["m"]).await, FakeNode::with(&["m"]).await];
    let [a, b] = &nodes;
    let rig = Rig::with(&[a, b]).await;
    let answers: Vec<_> = (0..4).map(|_| rig.chat(json!({}))).collect();
    for node in &mut nodes {
        for _ in 0..2 {
            node.asked().await.answer(&["x"]).await;
        }
        assert!(!node.is_asked());
    }
    for answer in answers {
        assert_eq!(answer.await.expect("sent").status, 200);
    }
}

#[tokio::test]
async fn unknown_model_is_not_found_and_the_served_are_named() {
    let node = FakeNode::with(&["m", "owner/other"]).await;
    let rig = Rig::with(&[&node]).await;
    let answer = rig.chat(json!({"model": "gpt-4"})).await.expect("sent");
    assert_eq!(answer.status, 404);
    let error = answer.json().await["error"].clone();
    assert_eq!(error["code"], "model_not_found");
    assert_eq!(error["param"], "model");
    let message = error["message"].as_str().expect("text");
    assert_eq!(message, "the model 'gpt-4' does not exist; served: m, owner/other");
}

#[tokio::test]
async fn models_are_listed_and_found_by_names_with_slashes() {
    let node = FakeNode::with(&["m", "owner/other"]).await;
    let rig = Rig::with(&[&node]).await;
    let list = client::get(rig.at, "/v1/models").await.json().await;
    let ids: Vec<&Value> = list["data"].as_array().expect("array").iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, ["m", "owner/other"]);
    let one = client::get(rig.at, "/v1/models/owner/other").await.json().await;
    assert_eq!((&one["id"], &one["object"]), (&json!("owner/other"), &json!("model")));
    assert_eq!(client::get(rig.at, "/v1/models/none").await.status, 404);
}

#[tokio::test]
async fn health_is_bad_without_nodes_and_good_with_one() {
    let rig = Rig::start(|_| {}).await;
    assert_eq!(client::get(rig.at, "/health").await.status, 503);
    let node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let answer = client::get(rig.at, "/health").await;
    assert_eq!(answer.status, 200);
    let health = answer.json().await;
    assert_eq!(health["nodes"][0]["id"], node.id.as_str());
    assert_eq!(health["nodes"][0]["workers"][0]["pid"], 42);
    assert_eq!(health["models"], json!([{"id": "m", "status": "ready"}]));
}

#[tokio::test]
async fn metrics_count_requests_tokens_and_nodes() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let answer = rig.chat(json!({}));
    let asked = node.asked().await;
    assert_eq!(rig.metric("mlxcel_requests_in_flight").await, 1.0);
    asked.answer(&["a", "b"]).await;
    answer.await.expect("sent").json().await;
    assert_eq!(rig.metric("mlxcel_tokens_total{").await, 5.0);
    assert_eq!(rig.metric("mlxcel_nodes{state=\"connected\"}").await, 1.0);
    assert_eq!(rig.metric("mlxcel_time_to_first_token_seconds_count").await, 1.0);
    let requests = "mlxcel_requests_total{endpoint=\"chat_completions\",status=\"200\"}";
    assert_eq!(rig.metric(requests).await, 1.0);
    assert_eq!(rig.metric("mlxcel_requests_in_flight").await, 0.0);
}

#[tokio::test]
async fn wrong_paths_methods_and_bodies_get_openai_errors() {
    let rig = Rig::start(|_| {}).await;
    let chat = "/v1/chat/completions";
    let cases = [
        ("GET", "/nowhere", "", 404, "unknown_url"),
        ("GET", chat, "", 405, "method_not_allowed"),
        ("POST", chat, "{", 400, ""),
        ("POST", chat, "[]", 400, ""),
        ("POST", chat, "{}", 400, "missing_required_parameter"),
    ];
    for (method, path, body, status, code) in cases {
        let answer = client::call(rig.at, method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}");
        let error = answer.json().await["error"].clone();
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["code"].as_str().unwrap_or(""), code, "{method} {path} {body}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()));
    }
}

#[tokio::test]
async fn unsupported_field_is_refused_by_name_before_any_node() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    let answer = rig.chat(json!({"store": true})).await.expect("sent");
    assert_eq!(answer.status, 400);
    let error = answer.json().await["error"].clone();
    assert_eq!(error["param"], "store");
    assert_eq!(error["code"], "unsupported_parameter");
    assert!(!node.is_asked());
}

#[tokio::test]
async fn api_key_is_required_where_one_is_set() {
    let rig = Rig::start(|options| options.api_keys = vec!["other".into(), "secret".into()]).await;
    let with = |key: &'static str| {
        let request = Request::get("/v1/models")
            .header("host", "router")
            .header("authorization", key)
            .body(http_body_util::Full::default())
            .expect("well-formed");
        client::send(rig.at, request)
    };
    let refused = client::get(rig.at, "/v1/models").await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json().await["error"]["code"], "invalid_api_key");
    assert_eq!(with("Bearer wrong").await.status, 401);
    assert_eq!(with("Bearer secret").await.status, 200);
    // Probes carry no key.
    assert_eq!(client::get(rig.at, "/health").await.status, 503);
}

#[tokio::test]
async fn large_body_within_the_limit_reaches_the_node() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    // Under tonic's own 4 MiB default, which the fake node keeps.
    let text = "x".repeat(3 * 1024 * 1024);
    let answer = rig.chat(json!({"messages": [{"role": "user", "content": text}]}));
    node.asked().await.answer(&["ok"]).await;
    assert_eq!(answer.await.expect("sent").status, 200);
}

#[tokio::test]
async fn body_over_the_limit_is_refused_before_it_is_read() {
    let rig = Rig::start(|_| {}).await;
    let mut stream = TcpStream::connect(rig.at).await.expect("router listens");
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\ncontent-length: 40000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered and closed");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("the request body is larger than 31 MiB"), "{answer}");
}
