//! The JSON of answers: whole ones, and the chunks of streamed ones, of both endpoints.
//!
//! Only shapes; what goes into each is `choices`' business, when it is sent is `complete`'s.

use std::time::{SystemTime, UNIX_EPOCH};

use mlxcel_protocol::v1::{ChoiceDelta, FinishReason, Finished, ToolCallDelta};
use serde_json::{Value, json};

/// Which endpoint's shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
}

impl Endpoint {
    /// The endpoint's name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat_completions",
            Self::Text => "completions",
        }
    }

    /// What the answers' ids begin with.
    pub(crate) fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl-",
            Self::Text => "cmpl-",
        }
    }
}

/// What every part of one answer repeats.
#[derive(Debug, Clone)]
pub(crate) struct Heading {
    pub(crate) endpoint: Endpoint,
    pub(crate) id: String,
    pub(crate) model: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// How many choices the answer has.
    pub(crate) choices: u32,
    /// Whether choices carry log-probabilities.
    pub(crate) logprobs: bool,
    /// Whether chunks announce the usage that the last one carries.
    pub(crate) include_usage: bool,
}

impl Heading {
    /// A choice of a whole answer.
    pub(crate) fn choice(&self, choice: &ChoiceDelta, logprobs: Value, reason: FinishReason) -> Value {
        let (index, text, reason) = (choice.choice, &choice.text, finish_reason(reason));
        match self.endpoint {
            Endpoint::Chat => json!({
                "index": index,
                "message": message(choice),
                "logprobs": logprobs,
                "finish_reason": reason,
            }),
            Endpoint::Text => json!({
                "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason,
            }),
        }
    }

    /// The whole answer.
    pub(crate) fn whole(&self, choices: Vec<Value>, finished: &Finished) -> Value {
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion",
            Endpoint::Text => "text_completion",
        };
        let mut answer = self.outline(object, choices.into());
        answer["usage"] = usage(finished);
        answer
    }

    /// The first chunk of a choice of a streamed chat; other endpoints have none.
    pub(crate) fn opening(&self, index: u32) -> Option<Value> {
        let role = json!({"role": "assistant", "content": ""});
        match self.endpoint {
            Endpoint::Chat => Some(self.chunk(index, role, Value::Null, Value::Null)),
            Endpoint::Text => None,
        }
    }

    /// A chunk of text.
    pub(crate) fn text(&self, index: u32, text: &str, logprobs: Value) -> Value {
        let content = match self.endpoint {
            Endpoint::Chat => json!({"content": text}),
            Endpoint::Text => text.into(),
        };
        self.chunk(index, content, logprobs, Value::Null)
    }

    /// A chunk of reasoning, which text completions do not have.
    pub(crate) fn reasoning(&self, index: u32, text: &str) -> Value {
        self.chunk(index, json!({"reasoning_content": text}), Value::Null, Value::Null)
    }

    /// A chunk of tool calls, which text completions do not have.
    pub(crate) fn tool_calls(&self, index: u32, calls: &[ToolCallDelta]) -> Value {
        let call = |call: &ToolCallDelta| match call.id.is_empty() {
            true => json!({"index": call.index, "function": {"arguments": call.arguments}}),
            false => json!({
                "index": call.index, "id": call.id, "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }),
        };
        let calls: Vec<Value> = calls.iter().map(call).collect();
        self.chunk(index, json!({"tool_calls": calls}), Value::Null, Value::Null)
    }

    /// The chunk that says why a choice ends.
    pub(crate) fn ending(&self, index: u32, reason: FinishReason) -> Value {
        let content = match self.endpoint {
            Endpoint::Chat => json!({}),
            Endpoint::Text => "".into(),
        };
        self.chunk(index, content, Value::Null, finish_reason(reason).into())
    }

    /// The chunk with the token counts, where it was asked for.
    pub(crate) fn usage(&self, finished: &Finished) -> Option<Value> {
        self.include_usage.then(|| {
            let mut chunk = self.outline(self.chunk_object(), json!([]));
            chunk["usage"] = usage(finished);
            chunk
        })
    }

    fn chunk(&self, index: u32, content: Value, logprobs: Value, reason: Value) -> Value {
        let key = match self.endpoint {
            Endpoint::Chat => "delta",
            Endpoint::Text => "text",
        };
        let mut choice = json!({"index": index});
        choice[key] = content;
        choice["logprobs"] = logprobs;
        choice["finish_reason"] = reason;
        let mut chunk = self.outline(self.chunk_object(), json!([choice]));
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn chunk_object(&self) -> &'static str {
        match self.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Text => "text_completion",
        }
    }

    fn outline(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }
}

fn message(choice: &ChoiceDelta) -> Value {
    let mut message = json!({"role": "assistant", "content": choice.text, "refusal": null});
    if !choice.reasoning.is_empty() {
        message["reasoning_content"] = choice.reasoning.as_str().into();
    }
    if !choice.tool_calls.is_empty() {
        let call = |call: &ToolCallDelta| {
            let function = json!({"name": call.name, "arguments": call.arguments});
            json!({"id": call.id, "type": "function", "function": function})
        };
        message["tool_calls"] = choice.tool_calls.iter().map(call).collect();
        if choice.text.is_empty() {
            message["content"] = Value::Null;
        }
    }
    message
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |elapsed| elapsed.as_secs())
}

fn usage(finished: &Finished) -> Value {
    let (prompt, completion) = (finished.prompt_tokens, finished.completion_tokens);
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": u64::from(prompt) + u64::from(completion),
        "prompt_tokens_details": {"cached_tokens": finished.cached_tokens},
    })
}

fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Repetition => "repetition",
        FinishReason::Stop | FinishReason::Cancelled | FinishReason::Unspecified => "stop",
    }
}

const FINGERPRINT: &str = concat!("mlxcel-", env!("CARGO_PKG_VERSION"));
