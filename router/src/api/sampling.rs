//! The request fields that both completion endpoints share: sampling, limits, streaming, and the
//! options that are accepted only where they change nothing.
//!
//! Absent fields take the OpenAI API's defaults (temperature 1, top_p 1), not the engine's greedy ones.

use std::collections::HashMap;

use mlxcel_protocol::v1::Sampling;
use serde_json::Value;

use super::error::ApiError;
use super::fields::{Fields, wrong_type};

/// Most stop strings in a request.
const MOST_STOPS: usize = 16;

/// Most answers to one prompt, as in OpenAI's API.
const MOST_CHOICES: i64 = 128;

/// Whether and how the answer is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Streaming {
    pub(crate) on: bool,
    /// Send a last chunk with the token counts.
    pub(crate) include_usage: bool,
}

/// Reads how each token is chosen.
pub(crate) fn sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let penalty = "between -2 and 2";
    let positive = (std::ops::Bound::Excluded(0.0), std::ops::Bound::Included(1.0));
    let above_zero = (std::ops::Bound::Excluded(0.0), std::ops::Bound::Included(f64::from(f32::MAX)));
    let temperature = fields.number("temperature", 0.0..=2.0, "between 0 and 2")?;
    let top_p = fields.number("top_p", positive, "above 0 and at most 1")?;
    let repetition_penalty = match fields.number("repetition_penalty", above_zero, "above 0")? {
        Some(value) => Some(value),
        None => fields.number("repeat_penalty", above_zero, "above 0")?,
    };
    Ok(Sampling {
        temperature: Some(temperature.unwrap_or(1.0)),
        top_p: Some(top_p.unwrap_or(1.0)),
        top_k: top_k(fields)?,
        min_p: fields.number("min_p", 0.0..=1.0, "between 0 and 1")?,
        // Any 64 bits are a seed; negative ones are kept by their bits.
        seed: fields.integer("seed", .., "a 64-bit integer")?.map(i64::cast_unsigned),
        repetition_penalty,
        repetition_window: fields.count("repeat_last_n", 0)?,
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0, penalty)?,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0, penalty)?,
        logit_bias: logit_bias(fields)?,
    })
}

/// 0 and -1 both mean every token.
fn top_k(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let most = i64::from(u32::MAX);
    let number = fields.integer("top_k", -1..=most, "-1 or more")?;
    Ok(number.map(|n| u32::try_from(n).unwrap_or(0)))
}

fn logit_bias(fields: &mut Fields) -> Result<HashMap<u32, f32>, ApiError> {
    let mut biases = HashMap::new();
    for (token, bias) in fields.object("logit_bias")?.unwrap_or_default() {
        let name = format!("logit_bias.{token}");
        let Ok(id) = token.parse() else {
            let message = format!("'logit_bias' must have token ids as keys, got '{token}'");
            return Err(ApiError::invalid("logit_bias", message));
        };
        match bias.as_f64() {
            Some(number) if (-100.0..=100.0).contains(&number) => {
                biases.insert(id, number as f32);
            }
            Some(number) => {
                let message = format!("'{name}' must be between -100 and 100, got {number}");
                return Err(ApiError::invalid(&name, message));
            }
            None => return Err(wrong_type(&name, "a number", &bias)),
        }
    }
    Ok(biases)
}

/// Reads `n`.
pub(crate) fn choices(fields: &mut Fields) -> Result<u32, ApiError> {
    let n = fields.integer("n", 1..=MOST_CHOICES, &format!("between 1 and {MOST_CHOICES}"))?;
    Ok(n.and_then(|n| u32::try_from(n).ok()).unwrap_or(1))
}

/// Reads `stop`: a string or several.
pub(crate) fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let items = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(one) => vec![one],
    };
    if items.len() > MOST_STOPS {
        let message = format!("'stop' must have at most {MOST_STOPS} strings, got {}", items.len());
        return Err(ApiError::invalid("stop", message));
    }
    let text = |item| match item {
        Value::String(s) if s.is_empty() => Err(ApiError::invalid("stop", "'stop' must not be empty")),
        Value::String(s) => Ok(s),
        other => Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    items.into_iter().map(text).collect()
}

/// Reads `stream` and `stream_options`.
pub(crate) fn streaming(fields: &mut Fields) -> Result<Streaming, ApiError> {
    let on = fields.boolean("stream")?.unwrap_or(false);
    let Some(options) = fields.take("stream_options") else {
        return Ok(Streaming { on, include_usage: false });
    };
    if !on {
        let message = "'stream_options' is only allowed when 'stream' is true";
        return Err(ApiError::invalid("stream_options", message));
    }
    let mut options = Fields::of_value(options, "stream_options")?;
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.only("include_obfuscation", "", is_false)?;
    options.finish()?;
    Ok(Streaming { on, include_usage })
}

/// Reads `priority`: higher goes first.
pub(crate) fn priority(fields: &mut Fields) -> Result<i32, ApiError> {
    let number = fields.integer("priority", -100..=100, "between -100 and 100")?;
    Ok(number.and_then(|n| i32::try_from(n).ok()).unwrap_or(0))
}

/// Reads whose request it is: `user`, or the name that replaces it. Empty for nobody's.
pub(crate) fn client(fields: &mut Fields) -> Result<String, ApiError> {
    let (user, identifier) = (fields.string("user")?, fields.string("safety_identifier")?);
    Ok(user.or(identifier).unwrap_or_default())
}

/// Reads the fields of either endpoint that are accepted only where they change nothing.
pub(crate) fn without_effect(fields: &mut Fields) -> Result<(), ApiError> {
    fields.string("prompt_cache_key")?;
    fields.object("metadata")?;
    fields.only("store", " except as false", is_false)?;
    fields.only("service_tier", " except as 'auto' or 'default'", |v| {
        matches!(v.as_str(), Some("auto" | "default"))
    })?;
    fields.only("min_tokens", " except as 0", |v| v.as_i64() == Some(0))
}

pub(crate) fn is_false(value: &Value) -> bool {
    value.as_bool() == Some(false)
}

pub(crate) fn is_empty_array(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}
