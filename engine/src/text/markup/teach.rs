//! Tells a model whose chat template knows no tools how to call them, in the words Hermes models were trained on.
//!
//! Rewrites the conversation into one without tools. That a model understands it is not promised; that what it
//! says is told apart is.

use serde_json::{Map, Value, json};

use crate::ChatPrompt;

/// The conversation with its tools, calls and results as text.
pub(crate) fn taught(chat: &ChatPrompt) -> ChatPrompt {
    let mut messages: Vec<Value> = chat.messages.as_array().into_iter().flatten().map(as_text).collect();
    if let Some(tools) = chat.tools.as_array().filter(|tools| !tools.is_empty()) {
        let lesson = lesson(tools);
        match messages.first_mut().filter(|first| first["role"] == "system") {
            Some(first) => {
                let before = first["content"].as_str().unwrap_or_default();
                first["content"] = format!("{before}\n\n{lesson}").into();
            }
            None => messages.insert(0, json!({"role": "system", "content": lesson})),
        }
    }
    ChatPrompt { messages: messages.into(), tools: Value::Null, variables: chat.variables.clone() }
}

fn lesson(tools: &[Value]) -> String {
    let tools: Vec<String> = tools.iter().map(Value::to_string).collect();
    format!(
        "You may call one or more functions to assist with the user query. Here are the available functions:\n\
         <tools>\n{}\n</tools>\n\nFor each function call return a JSON object with the function's name and its \
         arguments within <tool_call></tool_call> tags:\n<tool_call>\n{{\"name\": <function-name>, \
         \"arguments\": <arguments-as-JSON>}}\n</tool_call>",
        tools.join("\n")
    )
}

fn as_text(message: &Value) -> Value {
    let content = message["content"].as_str().unwrap_or_default();
    if message["role"] == "tool" {
        return json!({"role": "user", "content": format!("<tool_response>\n{content}\n</tool_response>")});
    }
    let Some(calls) = message["tool_calls"].as_array().filter(|calls| !calls.is_empty()) else {
        return message.clone();
    };
    let call = |call: &Value| {
        let function = &call["function"];
        let arguments = function["arguments"].as_str().map(serde_json::from_str::<Map<String, Value>>);
        let arguments = match arguments {
            Some(Ok(arguments)) => arguments.into(),
            _ => function["arguments"].clone(),
        };
        format!("<tool_call>\n{}\n</tool_call>", json!({"name": function["name"], "arguments": arguments}))
    };
    let calls: Vec<String> = calls.iter().map(call).collect();
    let text = if content.is_empty() { calls.join("\n") } else { format!("{content}\n{}", calls.join("\n")) };
    json!({"role": message["role"], "content": text})
}
