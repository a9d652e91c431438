//! Reads which form an answer must have: `response_format` of OpenAI's API, and vLLM's `structured_outputs` and
//! `repetition_detection`.
//!
//! Whether a schema or grammar makes sense, the node says.

use mlxcel_protocol::v1::{Grammar, RepetitionLimit, grammar};
use serde_json::Value;

use super::error::ApiError;
use super::fields::{Fields, wrong_type};

/// Reads the grammar an answer is to obey.
pub(crate) fn grammar(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    for field in ["guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar", "json_schema"]
    {
        fields.only(field, "; use 'structured_outputs' or 'response_format'", |_| false)?;
    }
    let format = fields.take("response_format").map(response_format).transpose()?.flatten();
    let outputs = fields.take("structured_outputs").map(structured_outputs).transpose()?;
    match (format, outputs) {
        (Some(_), Some(_)) => {
            let message = "'structured_outputs' and 'response_format' contradict each other";
            Err(ApiError::invalid("structured_outputs", message))
        }
        (format, outputs) => Ok(format.or(outputs).map(|kind| Grammar { kind: Some(kind) })),
    }
}

fn response_format(value: Value) -> Result<Option<grammar::Kind>, ApiError> {
    let mut fields = Fields::of_value(value, "response_format")?;
    let kind = match fields.required_string("type")?.as_str() {
        "text" => None,
        "json_object" => Some(grammar::Kind::JsonObject(true)),
        "json_schema" => {
            let format =
                fields.take("json_schema").ok_or_else(|| ApiError::missing("response_format.json_schema"))?;
            Some(json_schema(format)?)
        }
        other => {
            let name = fields.name("type");
            let message = format!("'{name}' must be text, json_object or json_schema, got '{other}'");
            return Err(ApiError::invalid(&name, message));
        }
    };
    fields.finish()?;
    Ok(kind)
}

/// The schema is followed whether or not `strict` asks for it.
fn json_schema(value: Value) -> Result<grammar::Kind, ApiError> {
    let mut fields = Fields::of_value(value, "response_format.json_schema")?;
    fields.required_string("name")?;
    fields.string("description")?;
    fields.boolean("strict")?;
    let schema = fields.object("schema")?.unwrap_or_default();
    fields.finish()?;
    Ok(grammar::Kind::JsonSchema(Value::Object(schema).to_string()))
}

fn structured_outputs(value: Value) -> Result<grammar::Kind, ApiError> {
    use grammar::Kind;
    let mut fields = Fields::of_value(value, "structured_outputs")?;
    let schema = match fields.take("json") {
        None => None,
        Some(Value::String(text)) => Some(text),
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => Some(schema.to_string()),
        Some(other) => return Err(wrong_type("structured_outputs.json", "a schema", &other)),
    };
    let choices = fields.array("choice")?.map(texts).transpose()?;
    let kinds = [
        schema.map(Kind::JsonSchema),
        fields.string("regex")?.map(Kind::Regex),
        choices.map(|texts| Kind::Choices(grammar::Choices { texts })),
        fields.string("grammar")?.map(Kind::Lark),
        fields.boolean("json_object")?.filter(|&wanted| wanted).map(Kind::JsonObject),
    ];
    for field in ["disable_any_whitespace", "disable_additional_properties", "disable_fallback"] {
        fields.only(field, " except as false", |value| value.as_bool() == Some(false))?;
    }
    for field in ["whitespace_pattern", "structural_tag"] {
        fields.only(field, "", |_| false)?;
    }
    fields.finish()?;
    let mut kinds = kinds.into_iter().flatten();
    match (kinds.next(), kinds.next()) {
        (Some(kind), None) => Ok(kind),
        _ => {
            let message =
                "'structured_outputs' must have exactly one of json, regex, choice, grammar, json_object";
            Err(ApiError::invalid("structured_outputs", message))
        }
    }
}

fn texts(items: Vec<Value>) -> Result<Vec<String>, ApiError> {
    let text = |item| match item {
        Value::String(text) => Ok(text),
        other => Err(wrong_type("structured_outputs.choice", "an array of strings", &other)),
    };
    items.into_iter().map(text).collect()
}

/// Reads when output counts as going round in circles.
pub(crate) fn repetition(fields: &mut Fields) -> Result<Option<RepetitionLimit>, ApiError> {
    let Some(value) = fields.take("repetition_detection") else { return Ok(None) };
    let mut fields = Fields::of_value(value, "repetition_detection")?;
    let most = format!("between 0 and {MOST_PATTERN}");
    let max = fields.integer("max_pattern_size", 0..=MOST_PATTERN, &most)?.unwrap_or(0);
    let min = fields.integer("min_pattern_size", 0..=max, "between 0 and max_pattern_size")?.unwrap_or(0);
    let range = 2..=i64::from(u32::MAX);
    let count = fields.integer("min_count", range, "2 or more")?;
    fields.finish()?;
    if max == 0 {
        return Ok(None);
    }
    let Some(count) = count else { return Err(ApiError::missing("repetition_detection.min_count")) };
    let number = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    let (max_pattern, min_pattern, min_count) = (number(max), number(min.max(1)), number(count));
    Ok(Some(RepetitionLimit { max_pattern, min_pattern, min_count }))
}

/// The work a token takes grows with the length of the patterns looked for.
const MOST_PATTERN: i64 = 256;
