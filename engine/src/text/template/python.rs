//! Values written as Python writes them: `str(x)` and `json.dumps(x)`.
//!
//! Templates are written for Python and models are trained on its output, so a space after a
//! colon matters. Knows no templates.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// `str(x)`; undefined is the empty string, as Jinja prints it.
pub(super) fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number => number(value),
        ValueKind::Seq => format!("[{}]", joined(items(value).iter().map(quoted))),
        ValueKind::Map => {
            let pairs = items(value).into_iter().map(|key| {
                let inner = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", quoted(&key), quoted(&inner))
            });
            format!("{{{}}}", joined(pairs))
        }
        _ => value.to_string(),
    }
}

/// How `json.dumps` is asked to write.
pub(super) struct Json {
    pub(super) ascii: bool,
    pub(super) indent: Option<String>,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    pub(super) sort_keys: bool,
}

impl Default for Json {
    fn default() -> Self {
        Self {
            ascii: false,
            indent: None,
            item_separator: ", ".into(),
            key_separator: ": ".into(),
            sort_keys: false,
        }
    }
}

impl Json {
    /// # Errors
    /// The value, or one inside it, is undefined or not data.
    pub(super) fn dump(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write(value, 0, &mut out)?;
        Ok(out)
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                out.push('[');
                self.write_items(items(value), depth, out, |item, out| self.write(&item, depth + 1, out))?;
                out.push(']');
            }
            ValueKind::Map => {
                let mut keys = items(value);
                if self.sort_keys {
                    keys.sort();
                }
                out.push('{');
                self.write_items(keys, depth, out, |key, out| {
                    self.write_key(&key, out);
                    out.push_str(&self.key_separator);
                    self.write(&value.get_item(&key)?, depth + 1, out)
                })?;
                out.push('}');
            }
            kind => {
                let message = format!("{kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::BadSerialization, message));
            }
        }
        Ok(())
    }

    fn write_items(
        &self,
        items: Vec<Value>,
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        let empty = items.is_empty();
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item_separator);
            }
            line(depth + 1, out);
            write(item, out)?;
        }
        if !empty {
            line(depth, out);
        }
        Ok(())
    }

    /// Keys that are not strings are written as JSON would write them as values.
    fn write_key(&self, key: &Value, out: &mut String) {
        match key.kind() {
            ValueKind::String => self.write_string(key.as_str().unwrap_or_default(), out),
            ValueKind::None => out.push_str("\"null\""),
            ValueKind::Bool => {
                out.push_str(if key.is_true() { "\"true\"" } else { "\"false\"" });
            }
            _ => self.write_string(&text(key), out),
        }
    }

    fn write_string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        // Writing to a String cannot fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn items(value: &Value) -> Vec<Value> {
    value.try_iter().map(Iterator::collect).unwrap_or_default()
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// `repr(x)`.
fn quoted(value: &Value) -> String {
    let Some(text_value) = value.as_str() else {
        return text(value);
    };
    let quote = if text_value.contains('\'') && !text_value.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text_value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Integers as they are; floats in the shortest form that reads back the same, with an exponent
/// below 1e-4 and from 1e16 on, as Python's `repr`.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    let magnitude = float.abs();
    if !float.is_finite() {
        return match float {
            f64::INFINITY => "inf".into(),
            f64::NEG_INFINITY => "-inf".into(),
            _ => "nan".into(),
        };
    }
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let scientific = format!("{float:e}");
        if let Some((digits, exponent)) = scientific.split_once('e') {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            return format!("{digits}e{sign}{exponent:0>2}");
        }
    }
    format!("{float:?}")
}
