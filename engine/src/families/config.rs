//! Reading keys of config.json, with errors that name the key.
//!
//! Absent and null are the same, as in Hugging Face configurations. It knows no key by name;
//! families say which are required and what the others default to.

use serde_json::Value;

use super::error::FamilyError;

/// Largest count accepted anywhere: keeps products of two counts far from overflow.
const MAX_COUNT: u64 = 1 << 30;

/// A view of one JSON object of the configuration.
#[derive(Clone, Copy)]
pub(super) struct Config<'a> {
    object: &'a Value,
    /// Put before keys in messages, such as `rope_scaling.`.
    prefix: &'a str,
}

impl<'a> Config<'a> {
    pub(super) fn new(object: &'a Value) -> Self {
        Self { object, prefix: "" }
    }

    /// The object under `key`, if present.
    pub(super) fn section(&self, key: &str, prefix: &'a str) -> Result<Option<Self>, FamilyError> {
        match self.get(key) {
            None => Ok(None),
            Some(object) if object.is_object() => Ok(Some(Self { object, prefix })),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// A whole number of at least one.
    pub(super) fn count(&self, key: &str) -> Result<usize, FamilyError> {
        self.optional_count(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn optional_count(&self, key: &str) -> Result<Option<usize>, FamilyError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        // Some writers store counts as 4096.0.
        let whole = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|f| f.fract() == 0.0 && (1.0..=MAX_COUNT as f64).contains(f))
                .map(|f| f as u64)
        });
        match whole.filter(|count| (1..=MAX_COUNT).contains(count)) {
            Some(count) => Ok(Some(count as usize)),
            None => Err(self.wrong(key, "a whole number of at least 1")),
        }
    }

    /// A finite number above zero.
    pub(super) fn number(&self, key: &str) -> Result<f64, FamilyError> {
        self.optional_number(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn optional_number(&self, key: &str) -> Result<Option<f64>, FamilyError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64().filter(|number| number.is_finite() && *number > 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, "a number above 0")),
        }
    }

    /// A finite number of at least zero.
    pub(super) fn optional_non_negative(&self, key: &str) -> Result<Option<f64>, FamilyError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64().filter(|number| number.is_finite() && *number >= 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, "a number of at least 0")),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, FamilyError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, FamilyError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a string")),
        }
    }

    pub(super) fn missing(&self, key: &str) -> FamilyError {
        FamilyError::Missing { key: format!("{}{key}", self.prefix) }
    }

    pub(super) fn wrong(&self, key: &str, expected: &str) -> FamilyError {
        let found = self.get(key).map_or_else(|| "nothing".to_owned(), ToString::to_string);
        FamilyError::Value { key: format!("{}{key}", self.prefix), found, expected: expected.to_owned() }
    }

    pub(super) fn unsupported(&self, key: &str, supported: &str) -> FamilyError {
        let found = match self.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => "nothing".to_owned(),
        };
        FamilyError::Unsupported {
            key: format!("{}{key}", self.prefix),
            found,
            supported: supported.to_owned(),
        }
    }
}
