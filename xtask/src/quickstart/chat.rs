//! The two requests the quickstart makes, over plain HTTP.

use std::io::{BufRead, BufReader, Write};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The JSON at `path`.
pub(super) fn get(address: &str, path: &str) -> Result<Value> {
    let agent = agent();
    let mut response = agent.get(format!("http://{address}{path}")).call()?;
    let text = response.body_mut().read_to_string()?;
    serde_json::from_str(&text).context("the answer is not JSON")
}

/// Asks one streamed question, printing the answer as it comes; the whole answer.
pub(super) fn ask(address: &str, model: &str, question: &str) -> Result<String> {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 64,
        "stream": true,
    });
    let request = agent()
        .post(format!("http://{address}/v1/chat/completions"))
        .header("content-type", "application/json");
    let mut response = request.send(body.to_string())?;
    if !response.status().is_success() {
        bail!("the router answered {}: {}", response.status(), response.body_mut().read_to_string()?);
    }
    print!("    ");
    let mut answer = String::new();
    for line in BufReader::new(response.body_mut().as_reader()).lines() {
        let line = line.context("the stream broke off")?;
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            println!();
            return Ok(answer);
        }
        let event: Value = serde_json::from_str(data).context("an event is not JSON")?;
        if let Some(error) = event.get("error") {
            bail!("the stream ended with an error: {error}");
        }
        let piece = event["choices"][0]["delta"]["content"].as_str().unwrap_or("");
        print!("{piece}");
        std::io::stdout().flush()?;
        answer.push_str(piece);
    }
    bail!("the stream ended before it was done, after {answer:?}")
}

/// Error statuses are answers to read, not failures of the client.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}
