//! What is made of a request before it reaches the step thread: tokens, the markup to expect, and the grammar to
//! follow.
//!
//! Runs on the caller's thread. Compiles no grammar; `compiling` does, on a thread of its own.

use super::command::Start;
use crate::event::GenerateError;
use crate::request::{AnswerOptions, Grammar, Prompt, Request, ToolChoice};
use crate::text::TextCodec;
use crate::text::markup::{CallMarkup, Calls, Splitter, forced_calls, taught};
use crate::{ChatPrompt, EventSink};

/// How a choice's output is told apart.
#[derive(Debug, Clone)]
pub(super) struct OutputMarkup {
    calls: Option<CallMarkup>,
    tools: Vec<String>,
    thinks: bool,
    thinking: bool,
    /// Special tokens that are markers.
    pub(super) shown: Vec<u32>,
}

impl OutputMarkup {
    pub(super) fn splitter(&self) -> Splitter {
        Splitter::new(self.calls, self.tools.clone(), self.thinks, self.thinking)
    }

    /// Whether calls want ids of nine letters and digits, which Mistral's templates insist on.
    pub(super) fn wants_short_ids(&self) -> bool {
        self.calls == Some(CallMarkup::Mistral)
    }
}

/// Checks a request and turns its prompt into tokens; the grammar it is to follow, to be compiled.
///
/// # Errors
/// What is wrong with the request, and the sink it is to be told to.
pub(super) fn prepare(
    request: Request,
    events: EventSink,
    codec: &TextCodec,
) -> Result<(Start, Option<Grammar>), (GenerateError, EventSink)> {
    match parts(&request, codec) {
        Err(error) => Err((error, events)),
        Ok(parts) => {
            let start = Start {
                continues: !matches!(request.prompt, Prompt::Chat(_)),
                id: request.id,
                prompt: parts.prompt,
                sampling: request.sampling,
                limits: request.limits,
                turn: request.turn,
                options: AnswerOptions { grammar: None, ..request.answer },
                grammar: None,
                grammar_after: parts.grammar_after,
                markup: parts.markup,
                events,
                export: None,
            };
            Ok((start, parts.grammar))
        }
    }
}

struct Parts {
    prompt: Vec<u32>,
    grammar: Option<Grammar>,
    grammar_after: Option<u32>,
    markup: Option<OutputMarkup>,
}

fn parts(request: &Request, codec: &TextCodec) -> Result<Parts, GenerateError> {
    let limits = &request.limits;
    let broken = request.answer.broken_rule().or(limits.repetition.and_then(|limit| limit.broken_rule()));
    if let Some(rule) = broken {
        return Err(GenerateError::Invalid(rule));
    }
    let vocabulary = codec.vocab_size();
    if let Some(token) = request.answer.resumed.iter().flatten().find(|token| **token >= vocabulary) {
        return Err(GenerateError::Invalid(format!(
            "an answer cannot go on behind token {token}, the vocabulary has {vocabulary}"
        )));
    }
    let mut grammar = request.answer.grammar.clone();
    let (prompt, markup) = match &request.prompt {
        Prompt::Chat(chat) => {
            let (text, markup) = render(chat, codec)?;
            if request.answer.tools != ToolChoice::Auto {
                if grammar.is_some() {
                    return Err(invalid("a tool call cannot be required of an answer that has a grammar"));
                }
                grammar = Some(forced(chat, &request.answer, codec)?);
            }
            (codec.encode(&text, false)?, markup)
        }
        _ if request.answer.tools != ToolChoice::Auto => {
            return Err(invalid("only a conversation can require a tool call"));
        }
        plain => (codec.encode_prompt(plain)?, None),
    };
    if prompt.is_empty() {
        return Err(crate::text::PromptError::Empty.into());
    }
    if grammar.is_some() && limits.ignore_eos {
        return Err(invalid("ignore_eos contradicts a grammar, whose text has an end"));
    }
    let thinking = markup.as_ref().is_some_and(|markup| markup.thinking);
    let grammar_after = if thinking { codec.token_id("</think>") } else { None };
    Ok(Parts { prompt, grammar, grammar_after, markup })
}

/// The prompt's text, and the markup to expect after it.
fn render(chat: &ChatPrompt, codec: &TextCodec) -> Result<(String, Option<OutputMarkup>), GenerateError> {
    let markup = codec.markup();
    let tools = chat.tools.as_array().map(Vec::as_slice).unwrap_or_default();
    if !tools.is_empty() && markup.calls == Calls::Unknown {
        return Err(invalid(
            "the model's chat template marks tool calls in a way that is not supported; leave out the tools",
        ));
    }
    let untaught = markup.calls == Calls::Untaught && speaks_of_tools(chat);
    let text = if untaught { codec.render_chat(&taught(chat))? } else { codec.render_chat(chat)? };
    let thinking = markup.thinks && text.trim_end().ends_with("<think>");
    let calls = if tools.is_empty() { None } else { markup.call_markup() };
    if calls.is_none() && !markup.thinks {
        return Ok((text, None));
    }
    let markers = [calls.map(CallMarkup::begin), Some("<think>"), Some("</think>")];
    let shown = markers.into_iter().flatten().filter_map(|marker| codec.token_id(marker));
    let shown = shown.filter(|&id| codec.is_special(id)).collect();
    let tools =
        tools.iter().filter_map(|tool| tool["function"]["name"].as_str()).map(str::to_owned).collect();
    Ok((text, Some(OutputMarkup { calls, tools, thinks: markup.thinks, thinking, shown })))
}

fn speaks_of_tools(chat: &ChatPrompt) -> bool {
    let of_tools =
        |message: &serde_json::Value| message["role"] == "tool" || message["tool_calls"].is_array();
    !chat.tools.is_null() || chat.messages.as_array().is_some_and(|messages| messages.iter().any(of_tools))
}

/// The grammar of an answer that calls what it must.
fn forced(chat: &ChatPrompt, options: &AnswerOptions, codec: &TextCodec) -> Result<Grammar, GenerateError> {
    let tools = chat.tools.as_array().map(Vec::as_slice).unwrap_or_default();
    let chosen: Vec<&serde_json::Value> = match &options.tools {
        ToolChoice::Named(name) => {
            tools.iter().filter(|tool| tool["function"]["name"] == name.as_str()).collect()
        }
        _ => tools.iter().collect(),
    };
    let Some(markup) = codec.markup().call_markup().filter(|_| !chosen.is_empty()) else {
        return Err(invalid(match &options.tools {
            ToolChoice::Named(_) => "the tool that must be called is not among the tools",
            _ => "a tool call is required, but there are no tools",
        }));
    };
    let marker = codec.token_id(markup.begin()).filter(|&id| codec.is_special(id));
    let several = options.tools == ToolChoice::Required && !options.single_call;
    Ok(Grammar::Lark(forced_calls(markup, &chosen, marker, several)))
}

fn invalid(reason: &str) -> GenerateError {
    GenerateError::Invalid(reason.to_owned())
}
