//! Reads the body of `POST /v1/completions`.
//!
//! One prompt a request: text or token ids. A list of several prompts is refused by name.

use mlxcel_protocol::v1::{GenerateRequest, TokenPrompt, generate_request::Prompt};
use serde_json::Value;

use super::chat_request::Parsed;
use super::error::ApiError;
use super::fields::{Fields, wrong_type};
use super::sampling::{self, is_false};
use super::structured;

/// OpenAI's default for this endpoint.
const DEFAULT_MAX_TOKENS: u32 = 16;

const MOST_LOGPROBS: i64 = 5;

/// Reads a completion request.
pub(crate) fn parse(body: &[u8]) -> Result<Parsed, ApiError> {
    let mut fields = Fields::of_body(body)?;
    let model = fields.required_string("model")?;
    let prompt = match fields.take("prompt") {
        None => return Err(ApiError::missing("prompt")),
        Some(prompt) => prompt_of(prompt)?,
    };
    let generate = GenerateRequest {
        model,
        prompt: Some(prompt),
        sampling: Some(sampling::sampling(&mut fields)?),
        max_tokens: fields.count("max_tokens", 1)?.unwrap_or(DEFAULT_MAX_TOKENS),
        stop: sampling::stop(&mut fields)?,
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
        priority: sampling::priority(&mut fields)?,
        client: sampling::client(&mut fields)?,
        choices: sampling::choices(&mut fields)?,
        logprobs: logprobs(&mut fields)?,
        grammar: structured::grammar(&mut fields)?,
        repetition: structured::repetition(&mut fields)?,
        ..GenerateRequest::default()
    };
    let streaming = sampling::streaming(&mut fields)?;
    sampling::without_effect(&mut fields)?;
    let choices = i64::from(generate.choices);
    fields.only("best_of", " except as the value of 'n'", |v| v.as_i64() == Some(choices))?;
    fields.only("echo", " except as false", is_false)?;
    fields.only("suffix", " except as an empty string", |v| v.as_str() == Some(""))?;
    fields.finish()?;
    Ok(Parsed { generate, streaming })
}

fn logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let top = fields.integer("logprobs", 0..=MOST_LOGPROBS, &format!("between 0 and {MOST_LOGPROBS}"))?;
    Ok(top.and_then(|top| u32::try_from(top).ok()))
}

fn prompt_of(value: Value) -> Result<Prompt, ApiError> {
    let wrong = |got: &Value| wrong_type("prompt", "a string or an array of token ids", got);
    let items = match value {
        Value::String(text) => return Ok(Prompt::Text(text)),
        Value::Array(items) => items,
        other => return Err(wrong(&other)),
    };
    match items.as_slice() {
        [] => Err(ApiError::invalid("prompt", "'prompt' must not be empty")),
        [Value::Number(_), ..] => token_ids(&items),
        // A list of one prompt is that prompt.
        [Value::String(text)] => Ok(Prompt::Text(text.clone())),
        [Value::Array(ids)] if ids.first().is_some_and(Value::is_number) => token_ids(ids),
        [Value::String(_) | Value::Array(_), _, ..] => {
            let message = "'prompt' is not supported as a list of prompts; send one request for each";
            Err(ApiError::unsupported("prompt", message))
        }
        [other, ..] => Err(wrong(other)),
    }
}

fn token_ids(items: &[Value]) -> Result<Prompt, ApiError> {
    let id = |(i, item): (usize, &Value)| {
        let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| {
            let name = format!("prompt[{i}]");
            let message = format!("'{name}' must be a token id, got {item}");
            ApiError::invalid(&name, message)
        })
    };
    let ids: Result<Vec<u32>, _> = items.iter().enumerate().map(id).collect();
    Ok(Prompt::Tokens(TokenPrompt { ids: ids? }))
}
