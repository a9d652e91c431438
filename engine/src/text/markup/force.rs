//! The grammar of output that must call a tool.

use std::fmt::Write;

use serde_json::{Value, json};

use super::CallMarkup;
use crate::grammar::on_one_line;

/// A tool that may be called.
#[derive(Debug, Clone, Copy)]
struct Tool<'a> {
    name: &'a str,
    parameters: &'a Value,
}

/// A Lark grammar, in `llguidance`'s dialect, of one call to one of `tools` (OpenAI's array of functions), or
/// of one or more. `marker` is the token that is the markup's first marker, where it is one of its own.
pub(crate) fn forced_calls(
    markup: CallMarkup,
    tools: &[&Value],
    marker: Option<u32>,
    several: bool,
) -> String {
    let tools: Vec<Tool<'_>> = tools.iter().map(|tool| Tool::of(&tool["function"])).collect();
    let begin = marker.map_or_else(|| quoted(markup.begin()), |id| format!("<[{id}]>"));
    let call = match markup {
        CallMarkup::Hermes => format!("{begin} {} call {}", quoted("\n"), quoted("\n</tool_call>")),
        CallMarkup::Mistral | CallMarkup::Llama3 => "call".to_owned(),
    };
    let (open, separator, close) = match markup {
        CallMarkup::Hermes => (String::new(), "\n", String::new()),
        CallMarkup::Mistral => (format!("{begin} {}", quoted("[")), ", ", quoted("]")),
        CallMarkup::Llama3 => (String::new(), "; ", String::new()),
    };
    let more = if several { format!("({} {call})*", quoted(separator)) } else { String::new() };
    let mut grammar = format!("start: {open} {call} {more} {close}\n");
    let names: Vec<String> = (0..tools.len()).map(|index| format!("call_{index}")).collect();
    let _ = writeln!(grammar, "call: {}", names.join(" | "));
    let key = if markup == CallMarkup::Llama3 { "parameters" } else { "arguments" };
    for (index, Tool { name, parameters }) in tools.iter().enumerate() {
        let head = quoted(&format!("{{\"name\": {}, \"{key}\": ", json!(name)));
        let _ = writeln!(grammar, "call_{index}: {head} args_{index} \"}}\"");
        let parameters = on_one_line((*parameters).clone());
        let _ = writeln!(grammar, "args_{index}: %json {parameters}");
    }
    grammar
}

impl<'a> Tool<'a> {
    fn of(function: &'a Value) -> Self {
        static ANY: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| json!({"type": "object"}));
        let parameters = &function["parameters"];
        let parameters = if parameters.is_object() { parameters } else { &*ANY };
        Self { name: function["name"].as_str().unwrap_or_default(), parameters }
    }
}

/// A Lark string; JSON's escapes are Lark's.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}
