//! Markup: how models write tool calls and reasoning among their text, and how it is told apart again.
//!
//! Each family marks calls in its own way, which its chat template shows. Knows no tokens; where markers are
//! tokens of their own, the codec sees to it that they come as text.

mod call_reader;
mod force;
mod splitter;
mod teach;
#[cfg(test)]
mod tests;

pub(crate) use force::forced_calls;
pub(crate) use splitter::Splitter;
pub(crate) use teach::taught;

/// How a model writes tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallMarkup {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen, SmolLM and others.
    Hermes,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`: Mistral up to its tokenizer v7.
    Mistral,
    /// A bare `{"name": …, "parameters": {…}}` as the whole output: Llama 3.
    Llama3,
}

/// What a chat template's text shows of the markup its model writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Markup {
    pub(crate) calls: Calls,
    /// Reasoning comes between `<think>` and `</think>`.
    pub(crate) thinks: bool,
}

/// What a model knows of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// The template takes tools and shows how calls are marked.
    Known(CallMarkup),
    /// The template takes no tools: the model has to be told how to call one.
    Untaught,
    /// The template takes tools, in a markup that is not known here.
    Unknown,
}

impl Markup {
    /// What the template says.
    pub(crate) fn of_template(template: &str) -> Self {
        let has = |text: &str| template.contains(text);
        let calls = if has("[ARGS]") || has("<function=") {
            Calls::Unknown
        } else if has("[TOOL_CALLS]") {
            Calls::Known(CallMarkup::Mistral)
        } else if has("<tool_call>") {
            Calls::Known(CallMarkup::Hermes)
        } else if has("<|python_tag|>") || has("Environment: ipython") {
            Calls::Known(CallMarkup::Llama3)
        } else if has("tools") {
            Calls::Unknown
        } else {
            Calls::Untaught
        };
        Self { calls, thinks: has("<think>") || has("</think>") }
    }

    /// How calls are marked in answers to a prompt with tools, if that is known.
    pub(crate) fn call_markup(self) -> Option<CallMarkup> {
        match self.calls {
            Calls::Known(markup) => Some(markup),
            Calls::Untaught => Some(CallMarkup::Hermes),
            Calls::Unknown => None,
        }
    }
}

impl CallMarkup {
    /// What stands before a call, or before a list of them.
    pub(crate) fn begin(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Mistral => "[TOOL_CALLS]",
            Self::Llama3 => "<|python_tag|>",
        }
    }

    /// What stands after a call.
    fn end(self) -> Option<&'static str> {
        (self == Self::Hermes).then_some("</tool_call>")
    }

    /// Whether an output that begins as a call is one, without a marker.
    fn is_bare(self) -> bool {
        self == Self::Llama3
    }
}

/// Output told apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Split {
    /// What is said.
    pub(crate) text: String,
    /// What is thought.
    pub(crate) reasoning: String,
    /// What is called.
    pub(crate) calls: Vec<CallPart>,
}

/// Part of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallPart {
    /// Which of the output's calls, counted from 0.
    pub(crate) index: u32,
    /// In the first part of each.
    pub(crate) name: Option<String>,
    /// More of the arguments' JSON.
    pub(crate) arguments: String,
}
