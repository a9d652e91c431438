//! The Jinja environment templates expect: Python's methods, filters and printing.
//!
//! Follows `transformers.utils.chat_template_utils`. Knows no conversation; the caller brings
//! the variables and the clock.

use std::fmt;
use std::time::SystemTime;

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, Utc};
use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;

use super::python::{self, Json};

/// An environment without templates.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(print);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: &Value| python::text(value));
    environment.add_test("iterable", |value: &Value| has_length(value) || value.is_undefined());
    environment.add_test("sequence", has_length);
    environment.add_function("raise_exception", raise_exception);
    environment
}

/// `strftime_now(format)`, in UTC.
pub(super) fn strftime(now: SystemTime) -> Value {
    let now = DateTime::<Utc>::from(now);
    Value::from_function(move |format: &str| -> Result<String, Error> {
        let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
        if items.iter().any(|item| matches!(item, Item::Error)) {
            let message = format!("strftime_now does not know the format {format:?}");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        Ok(now.format_with_items(items.into_iter()).to_string())
    })
}

/// The message of `raise_exception`, where that is what ended the template.
pub(super) fn raised(error: &Error) -> Option<String> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(raised) = error.downcast_ref::<Raised>() {
            return Some(raised.0.clone());
        }
        source = error.source();
    }
    None
}

/// `{% generation %}` marks what the model said, for training; it does not change the text. The
/// tags become `{% if true %}` and `{% endif %}`, whitespace control kept.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let inner = tag[2..end].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']);
        match inner.trim() {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// What Jinja calls a sequence in Python: strings and mappings too, but not none.
fn has_length(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String};
    matches!(value.kind(), String | Seq | Map | Iterable)
}

#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = python::text(message);
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn print(out: &mut Output<'_>, _: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&python::text(value)),
    };
    written.map_err(Error::from)
}

/// Python's methods; `pycompat` has most.
fn method(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match name {
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(text.strip_prefix(prefix).unwrap_or(text).into());
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(text.strip_suffix(suffix).unwrap_or(text).into());
            }
            _ => {}
        }
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// `json.dumps(x, ensure_ascii=False)`, with Hugging Face's keyword arguments.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let mut json =
        Json { sort_keys: options.get::<Option<bool>>("sort_keys")? == Some(true), ..Json::default() };
    json.ascii = options.get::<Option<bool>>("ensure_ascii")? == Some(true);
    if let Some(indent) = options.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none()) {
        json.indent = Some(match indent.kind() {
            ValueKind::String => indent.to_string(),
            _ => " ".repeat(usize::try_from(indent)?),
        });
        json.item_separator = ",".into();
    }
    if let Some(separators) = options.get::<Option<Vec<String>>>("separators")? {
        let [item, key] = <[String; 2]>::try_from(separators)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings"))?;
        (json.item_separator, json.key_separator) = (item, key);
    }
    options.assert_all_used()?;
    json.dump(value).map(Value::from)
}
