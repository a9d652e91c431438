//! Turns a grammar as a request states it into one that can be followed.
//!
//! Takes milliseconds, for a large schema seconds, and is bounded by `llguidance`'s limits; the caller sees to
//! it that nobody waits. Remembers the latest grammars, since clients send the same ones again and again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::vocabulary::token_environment;
use crate::text::TextCodec;
use crate::{GenerateError, Grammar};

/// Compiles grammars for one model.
pub(crate) struct GrammarCompiler {
    codec: Arc<TextCodec>,
    /// Made by the first use: most engines never see a grammar.
    factory: Option<ParserFactory>,
    /// The latest last.
    known: VecDeque<(Grammar, Compiled)>,
}

/// A grammar at its beginning.
#[derive(Clone)]
pub(crate) struct Compiled(Arc<Mutex<Matcher>>);

impl Compiled {
    /// A matcher of one's own.
    pub(super) fn matcher(&self) -> Matcher {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).deep_clone()
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compiled")
    }
}

impl GrammarCompiler {
    pub(crate) fn new(codec: Arc<TextCodec>) -> Self {
        Self { codec, factory: None, known: VecDeque::new() }
    }

    /// Compiles a grammar.
    ///
    /// # Errors
    /// `Invalid`, with the reason, when it is malformed, matches nothing or is too large.
    pub(crate) fn compile(&mut self, grammar: &Grammar) -> Result<Compiled, GenerateError> {
        if let Some(place) = self.known.iter().position(|(known, _)| known == grammar)
            && let Some(known) = self.known.remove(place)
        {
            self.known.push_back(known.clone());
            return Ok(known.1);
        }
        let invalid = |reason: String| GenerateError::Invalid(format!("{}: {reason}", grammar.name()));
        let top = top_level(grammar).map_err(invalid)?;
        let parser =
            self.factory()?.create_parser(top).map_err(|error| invalid(one_line(&error.to_string())))?;
        let mut matcher = Matcher::new(Ok(parser));
        // A grammar may compile and still have no first token.
        let first = matcher.compute_mask().map_err(|error| invalid(one_line(&error.to_string())))?;
        if first.is_zero() {
            return Err(invalid("no text obeys it".to_owned()));
        }
        let compiled = Compiled(Arc::new(Mutex::new(matcher)));
        self.known.push_back((grammar.clone(), compiled.clone()));
        if self.known.len() > MOST_KNOWN {
            self.known.pop_front();
        }
        Ok(compiled)
    }

    fn factory(&mut self) -> Result<&ParserFactory, GenerateError> {
        if self.factory.is_none() {
            let environment = token_environment(&self.codec).ok_or_else(|| {
                let reason = "the model has no end-of-sequence token, so a grammar could not end its text";
                GenerateError::Invalid(reason.to_owned())
            })?;
            let internal = |error| GenerateError::Internal(format!("grammars cannot be used: {error}"));
            let mut factory = ParserFactory::new_simple(&environment).map_err(internal)?;
            factory.quiet().limits_mut().verbose_errors = false;
            self.factory = Some(factory);
        }
        self.factory.as_ref().ok_or_else(|| GenerateError::Internal("no grammars".to_owned()))
    }
}

fn top_level(grammar: &Grammar) -> Result<TopLevelGrammar, String> {
    Ok(match grammar {
        Grammar::JsonObject => TopLevelGrammar::from_json_schema(on_one_line(json!({"type": "object"}))),
        Grammar::JsonSchema(text) => {
            let schema: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
            if !(schema.is_object() || schema.is_boolean()) {
                return Err("a schema is a JSON object".to_owned());
            }
            TopLevelGrammar::from_json_schema(on_one_line(schema))
        }
        Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
        Grammar::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        Grammar::Choice(choices) => {
            if choices.is_empty() {
                return Err("there must be at least one choice".to_owned());
            }
            // JSON escapes are Lark's.
            let quoted: Vec<String> = choices.iter().map(|choice| json!(choice).to_string()).collect();
            TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | ")))
        }
    })
}

/// Has JSON written with one space after colons and commas and nowhere else, unless the schema says otherwise in
/// `llguidance`'s own words: free to use white space, small models use little else.
pub(crate) fn on_one_line(mut schema: Value) -> Value {
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("x-guidance").or_insert_with(
            || json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}),
        );
    }
    schema
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

const MOST_KNOWN: usize = 32;
