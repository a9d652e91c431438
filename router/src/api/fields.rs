//! Reads a JSON object field by field, so that every mistake is told with its field's name.
//!
//! Each read takes the field out; `finish` refuses what is left. `null` counts as absent, as clients
//! send it for options they do not use. Knows no field itself.

use std::ops::RangeBounds;

use serde_json::{Map, Value};

use super::error::ApiError;

/// An object being read.
#[derive(Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// Where the object stands in the request, such as `messages[0].`; empty for the request itself.
    path: String,
}

impl Fields {
    /// Starts reading the request itself.
    pub(crate) fn of_body(body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|e| ApiError::bad_request(format!("the request body is not JSON: {e}")))?;
        match value {
            Value::Object(map) => Ok(Self { map, path: String::new() }),
            other => Err(ApiError::bad_request(format!(
                "the request body must be a JSON object, got {}",
                kind(&other)
            ))),
        }
    }

    /// Starts reading an object inside the request; `name` is its full name.
    pub(crate) fn of_value(value: Value, name: &str) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map, path: format!("{name}.") }),
            other => Err(wrong_type(name, "an object", &other)),
        }
    }

    /// The field's full name.
    pub(crate) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    /// The field as it is.
    pub(crate) fn take(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|value| !value.is_null())
    }

    /// A string.
    pub(crate) fn string(&mut self, field: &str) -> Result<Option<String>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(wrong_type(&self.name(field), "a string", &other)),
        }
    }

    /// A string that must be there.
    pub(crate) fn required_string(&mut self, field: &str) -> Result<String, ApiError> {
        self.string(field)?.ok_or_else(|| ApiError::missing(&self.name(field)))
    }

    /// A boolean.
    pub(crate) fn boolean(&mut self, field: &str) -> Result<Option<bool>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(wrong_type(&self.name(field), "a boolean", &other)),
        }
    }

    /// A number in `range`, of which `rule` says what it is, such as "between 0 and 2".
    pub(crate) fn number(
        &mut self,
        field: &str,
        range: impl RangeBounds<f64>,
        rule: &str,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(field) else {
            return Ok(None);
        };
        let name = self.name(field);
        let Some(number) = value.as_f64() else {
            return Err(wrong_type(&name, "a number", &value));
        };
        if !range.contains(&number) {
            return Err(out_of_range(&name, rule, &value));
        }
        Ok(Some(number as f32))
    }

    /// A whole number in `range`, of which `rule` says what it is.
    pub(crate) fn integer(
        &mut self,
        field: &str,
        range: impl RangeBounds<i64>,
        rule: &str,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(field) else {
            return Ok(None);
        };
        let name = self.name(field);
        let Some(number) = value.as_i64() else {
            return Err(match value.is_u64() {
                true => out_of_range(&name, rule, &value),
                false => wrong_type(&name, "an integer", &value),
            });
        };
        if !range.contains(&number) {
            return Err(out_of_range(&name, rule, &value));
        }
        Ok(Some(number))
    }

    /// A whole number of at least `least` that fits 32 bits.
    pub(crate) fn count(&mut self, field: &str, least: u32) -> Result<Option<u32>, ApiError> {
        let rule = format!("between {least} and {}", u32::MAX);
        let number = self.integer(field, i64::from(least)..=i64::from(u32::MAX), &rule)?;
        Ok(number.and_then(|n| u32::try_from(n).ok()))
    }

    /// An object, kept as it is.
    pub(crate) fn object(&mut self, field: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(wrong_type(&self.name(field), "an object", &other)),
        }
    }

    /// An array.
    pub(crate) fn array(&mut self, field: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong_type(&self.name(field), "an array", &other)),
        }
    }

    /// Accepts the field only where `harmless` says that leaving it out comes to the same.
    pub(crate) fn only(
        &mut self,
        field: &str,
        rule: &str,
        harmless: impl Fn(&Value) -> bool,
    ) -> Result<(), ApiError> {
        match self.take(field) {
            Some(value) if !harmless(&value) => {
                let name = self.name(field);
                let message = format!("'{name}' is not supported{rule}");
                Err(ApiError::unsupported(&name, message))
            }
            _ => Ok(()),
        }
    }

    /// Refuses the first field nobody asked for.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.map.keys().next() {
            Some(field) => Err(ApiError::unknown(&self.name(field))),
            None => Ok(()),
        }
    }
}

/// The error for a value of the wrong JSON type.
pub(crate) fn wrong_type(name: &str, wanted: &str, got: &Value) -> ApiError {
    ApiError::invalid(name, format!("'{name}' must be {wanted}, got {}", kind(got)))
}

fn out_of_range(name: &str, rule: &str, got: &Value) -> ApiError {
    ApiError::invalid(name, format!("'{name}' must be {rule}, got {got}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a fraction",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
