//! A conversation in OpenAI's terms, made into what templates expect.
//!
//! Checks shapes only: roles and their order are the template's to judge. Follows what mlx-lm's
//! server does before rendering: text parts are joined, null content is empty, and the arguments
//! of tool calls are objects rather than JSON in a string.

use minijinja::Value as Jinja;
use serde_json::{Map, Value};

use super::super::PromptError;
use crate::ChatPrompt;

/// A checked conversation.
pub(super) struct Conversation<'a> {
    chat: &'a ChatPrompt,
    messages: &'a [Value],
}

impl<'a> Conversation<'a> {
    /// # Errors
    /// The message names the field, the rule and the value.
    pub(super) fn new(chat: &'a ChatPrompt) -> Result<Self, PromptError> {
        let messages = chat.messages.as_array().map(Vec::as_slice).unwrap_or_default();
        if messages.is_empty() {
            return Err(wrong("messages must be a list of at least one message"));
        }
        for (index, message) in messages.iter().enumerate() {
            if !message.get("role").is_some_and(Value::is_string) {
                return Err(wrong(&format!("messages[{index}].role must be a string")));
            }
            let content = message.get("content").unwrap_or(&Value::Null);
            if !matches!(content, Value::Null | Value::String(_) | Value::Array(_)) {
                let rule = "must be a string, a list of parts or null";
                return Err(wrong(&format!("messages[{index}].content {rule}")));
            }
        }
        if !matches!(chat.tools, Value::Null | Value::Array(_)) {
            return Err(wrong("tools must be a list"));
        }
        let variables = match &chat.variables {
            Value::Null => None,
            Value::Object(variables) => Some(variables),
            _ => return Err(wrong("template variables must be an object")),
        };
        for name in ["messages", "tools"] {
            if variables.is_some_and(|variables| variables.contains_key(name)) {
                return Err(wrong(&format!("template variables must not replace {name}")));
            }
        }
        Ok(Self { chat, messages })
    }

    pub(super) fn has_tools(&self) -> bool {
        self.chat.tools.as_array().is_some_and(|tools| !tools.is_empty())
    }

    /// The tools, or none: an empty list means no tools, as in OpenAI's API.
    pub(super) fn tools(&self) -> Jinja {
        if self.has_tools() { Jinja::from_serialize(&self.chat.tools) } else { Jinja::from(()) }
    }

    pub(super) fn variables(&self) -> Jinja {
        match &self.chat.variables {
            Value::Null => Jinja::from_serialize(Map::new()),
            variables => Jinja::from_serialize(variables),
        }
    }

    /// Messages whose content is always a string.
    ///
    /// # Errors
    /// A part is not text.
    pub(super) fn messages_with_strings(&self) -> Result<Jinja, PromptError> {
        let mut messages = Vec::with_capacity(self.messages.len());
        for (index, message) in self.messages.iter().enumerate() {
            let content = joined(index, message.get("content").unwrap_or(&Value::Null))?;
            messages.push(with_content(message, Value::String(content)));
        }
        Ok(Jinja::from_serialize(messages))
    }

    /// Messages whose content is always a list of parts.
    pub(super) fn messages_with_parts(&self) -> Jinja {
        let messages = self.messages.iter().map(|message| {
            let content = match message.get("content") {
                None | Some(Value::Null) => Value::Array(Vec::new()),
                Some(Value::String(text)) => serde_json::json!([{ "type": "text", "text": text }]),
                Some(parts) => parts.clone(),
            };
            with_content(message, content)
        });
        Jinja::from_serialize(messages.collect::<Vec<_>>())
    }
}

fn joined(index: usize, content: &Value) -> Result<String, PromptError> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        _ => return Ok(String::new()),
    };
    let mut text = String::new();
    for (part_index, part) in parts.iter().enumerate() {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("none");
        match (kind, part.get("text").and_then(Value::as_str)) {
            ("text", Some(part)) => text.push_str(part),
            _ => {
                return Err(wrong(&format!(
                    "messages[{index}].content[{part_index}] must be a text part, got type {kind}"
                )));
            }
        }
    }
    Ok(text)
}

fn with_content(message: &Value, content: Value) -> Value {
    let mut message = message.clone();
    message["content"] = content;
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else {
            continue;
        };
        let parsed = arguments.as_str().map(serde_json::from_str::<Map<String, Value>>);
        if let Some(Ok(object)) = parsed {
            *arguments = Value::Object(object);
        }
    }
    message
}

fn wrong(message: &str) -> PromptError {
    PromptError::Conversation(message.to_owned())
}
