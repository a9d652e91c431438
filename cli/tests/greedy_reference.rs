//! Greedy text of the default model, beside what mlx-lm gives in float32.

#![allow(clippy::expect_used, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::http::{self, address_in};
use support::{Server, mlxcel, smollm2, succeed};

/// Below this margin between best and second logit another order of additions may choose otherwise.
const MARGIN: f64 = 0.05;

fn cases() -> Vec<Value> {
    let text = include_str!("../../parity/reference/smollm2-greedy.json");
    let reference: Value = serde_json::from_str(text).expect("the reference is JSON");
    reference["cases"].as_array().expect("it lists cases").clone()
}

/// Checks a text (without the end-of-sequence token's) and, where known, token ids.
fn check(case: &Value, text: &str, ids: Option<&Value>) {
    let expected = case["text"].as_str().expect("a text").trim_end_matches("<|im_end|>");
    if case["min_gap"].as_f64().expect("a number") >= MARGIN {
        assert_eq!(text, expected);
        if let Some(ids) = ids {
            assert_eq!(ids, &case["greedy_ids"]);
        }
    } else {
        // The first position with a thin margin is not recorded; the beginning is beyond doubt.
        let beginning: String = expected.chars().take(expected.chars().count() / 2).collect();
        assert!(text.starts_with(&beginning), "{text:?} does not begin like {expected:?}");
    }
}

#[test]
fn generate_gives_the_reference_text_and_tokens() {
    let model = smollm2();
    for case in cases() {
        let prompt = case["prompt"].as_str().expect("a prompt");
        let limit = case["greedy_ids"].as_array().expect("ids").len().to_string();
        let mut command = mlxcel();
        command.args(["generate", "--json", "--device", "cpu", "-n", &limit, "-p", prompt, "-m", &model]);
        if case["kind"] == "raw" {
            command.arg("--no-chat-template");
        }
        let answer: Value = serde_json::from_str(&succeed(&mut command)).expect("--json prints JSON");
        assert_eq!(
            answer["prompt_tokens"].as_u64(),
            case["prompt_ids"].as_array().map(|ids| ids.len() as u64)
        );
        check(&case, answer["text"].as_str().expect("a text"), Some(&answer["token_ids"]));
    }
}

#[test]
fn the_router_gives_the_reference_text() {
    let state = tempfile::tempdir().expect("a directory");
    let model = smollm2();
    let dir = state.path().display().to_string();
    let server =
        Server::start(&["serve", "-m", &model, "--port", "0", "--device", "cpu", "--state-dir", &dir]);
    let address = address_in(&server.wait_for("http://"));
    for case in cases() {
        let prompt = &case["prompt"];
        let limit = case["greedy_ids"].as_array().expect("ids").len();
        let (path, mut body) = if case["kind"] == "raw" {
            ("/v1/completions", json!({"prompt": prompt}))
        } else {
            ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": prompt}]}))
        };
        body["model"] = json!(model);
        body["temperature"] = json!(0);
        body["max_tokens"] = json!(limit);
        let (status, answer) = http::json(&address, "POST", path, &body);
        assert_eq!(status, 200, "{answer}");
        let choice = &answer["choices"][0];
        let text = choice["text"].as_str().or(choice["message"]["content"].as_str()).expect("a text");
        check(&case, text, None);
    }
}
