//! Reads the body of `POST /v1/chat/completions`.
//!
//! Strict: what cannot be done as asked is refused by name. The messages go to the node as text for
//! the model's chat template, which is the node's to render.

use mlxcel_protocol::v1::{ChatPrompt, GenerateRequest, generate_request::Prompt};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::{Fields, wrong_type};
use super::sampling::{self, Streaming, is_empty_array};
use super::{structured, tools};

/// A request, ready for a node except for its id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parsed {
    pub(crate) generate: GenerateRequest,
    pub(crate) streaming: Streaming,
}

const MOST_TOP_LOGPROBS: i64 = 20;

/// Reads a chat request.
pub(crate) fn parse(body: &[u8]) -> Result<Parsed, ApiError> {
    let mut fields = Fields::of_body(body)?;
    let model = fields.required_string("model")?;
    let messages = messages(&mut fields)?;
    let variables = fields.object("chat_template_kwargs")?;
    let tools = tools::tools(&mut fields)?;
    let generate = GenerateRequest {
        model,
        prompt: Some(Prompt::Chat(ChatPrompt {
            messages_json: Value::Array(messages).to_string(),
            tools_json: tools.json,
            template_variables_json: variables
                .filter(|v| !v.is_empty())
                .map_or_else(String::new, |v| Value::Object(v).to_string()),
        })),
        sampling: Some(sampling::sampling(&mut fields)?),
        max_tokens: max_tokens(&mut fields)?,
        stop: sampling::stop(&mut fields)?,
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
        priority: sampling::priority(&mut fields)?,
        client: sampling::client(&mut fields)?,
        choices: sampling::choices(&mut fields)?,
        logprobs: logprobs(&mut fields)?,
        grammar: structured::grammar(&mut fields)?,
        repetition: structured::repetition(&mut fields)?,
        tool_required: tools.required,
        tool_named: tools.named,
        single_call: tools.single,
        ..GenerateRequest::default()
    };
    let streaming = sampling::streaming(&mut fields)?;
    sampling::without_effect(&mut fields)?;
    unsupported(&mut fields)?;
    fields.finish()?;
    Ok(Parsed { generate, streaming })
}

/// `max_completion_tokens`, or its older name. 0, the wire's "as many as fit", when absent.
fn max_tokens(fields: &mut Fields) -> Result<u32, ApiError> {
    let new = fields.count("max_completion_tokens", 1)?;
    let old = fields.count("max_tokens", 1)?;
    match (new, old) {
        (Some(new), Some(old)) if new != old => Err(ApiError::invalid(
            "max_tokens",
            format!("'max_tokens' ({old}) and 'max_completion_tokens' ({new}) contradict each other"),
        )),
        (new, old) => Ok(new.or(old).unwrap_or(0)),
    }
}

/// How many most likely tokens to tell beside each one; none told at all when absent.
fn logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let rule = format!("between 0 and {MOST_TOP_LOGPROBS}");
    let top = fields.integer("top_logprobs", 0..=MOST_TOP_LOGPROBS, &rule)?;
    if top.is_some_and(|top| top > 0) && !wanted {
        let message = "'top_logprobs' is only allowed when 'logprobs' is true";
        return Err(ApiError::invalid("top_logprobs", message));
    }
    Ok(wanted.then(|| top.and_then(|top| u32::try_from(top).ok()).unwrap_or(0)))
}

fn unsupported(fields: &mut Fields) -> Result<(), ApiError> {
    fields.only("functions", " except as an empty array; use 'tools'", is_empty_array)?;
    let no_tools = |v: &Value| matches!(v.as_str(), Some("none" | "auto"));
    fields.only("function_call", " except as 'none' or 'auto'; use 'tool_choice'", no_tools)?;
    fields.only("modalities", " except as [\"text\"]", |v| *v == json!(["text"]))?;
    for field in ["audio", "prediction", "reasoning_effort", "verbosity", "web_search_options"] {
        fields.only(field, "", |_| false)?;
    }
    Ok(())
}

fn messages(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let messages = fields.array("messages")?.ok_or_else(|| ApiError::missing("messages"))?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "'messages' must not be empty"));
    }
    let each = |(i, value)| message(value, &format!("messages[{i}]"));
    messages.into_iter().enumerate().map(each).collect()
}

fn message(value: Value, name: &str) -> Result<Value, ApiError> {
    let mut fields = Fields::of_value(value, name)?;
    let role_name = fields.name("role");
    let role = match fields.required_string("role")?.as_str() {
        // Templates know only the older word for the same thing.
        "developer" | "system" => "system",
        "user" => "user",
        "assistant" => "assistant",
        "tool" => "tool",
        role @ "function" => {
            let message = format!("'{role_name}' is not supported as '{role}'");
            return Err(ApiError::unsupported(&role_name, message));
        }
        other => {
            let message =
                format!("'{role_name}' must be system, developer, user, assistant or tool, got '{other}'");
            return Err(ApiError::invalid(&role_name, message));
        }
    };
    let content_name = fields.name("content");
    let calls = if role == "assistant" { tools::calls(&mut fields)? } else { None };
    let content = match fields.take("content") {
        None if calls.is_some() => String::new(),
        None => return Err(ApiError::missing(&content_name)),
        Some(content) => text(content, &content_name)?,
    };
    let mut message = Map::new();
    message.insert("role".to_owned(), role.into());
    message.insert("content".to_owned(), content.into());
    if let Some(author) = fields.string("name")? {
        message.insert("name".to_owned(), author.into());
    }
    if let Some(calls) = calls {
        message.insert("tool_calls".to_owned(), calls);
    }
    if role == "tool" {
        message.insert("tool_call_id".to_owned(), fields.required_string("tool_call_id")?.into());
    }
    // What the model thought before it answered is no part of the conversation.
    fields.string("reasoning_content")?;
    fields.only("tool_calls", " except as an empty array", is_empty_array)?;
    fields.only("annotations", " except as an empty array", is_empty_array)?;
    for field in ["audio", "function_call", "refusal", "tool_call_id"] {
        fields.only(field, "", |_| false)?;
    }
    fields.finish()?;
    Ok(Value::Object(message))
}

/// A string, or text parts, which are joined by line breaks: few templates know parts.
fn text(content: Value, name: &str) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(wrong_type(name, "a string or an array of parts", &other)),
    };
    if parts.is_empty() {
        return Err(ApiError::invalid(name, format!("'{name}' must not be empty")));
    }
    let each = |(i, part)| text_part(part, &format!("{name}[{i}]"));
    let texts: Result<Vec<_>, _> = parts.into_iter().enumerate().map(each).collect();
    Ok(texts?.join("\n"))
}

fn text_part(part: Value, name: &str) -> Result<String, ApiError> {
    let mut fields = Fields::of_value(part, name)?;
    let type_name = fields.name("type");
    match fields.required_string("type")?.as_str() {
        "text" => {}
        other => {
            let message = format!("'{type_name}' is not supported except as 'text', got '{other}'");
            return Err(ApiError::unsupported(&type_name, message));
        }
    }
    let text = fields.required_string("text")?;
    fields.finish()?;
    Ok(text)
}
