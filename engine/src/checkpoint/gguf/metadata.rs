//! The key-value part of a GGUF file.
//!
//! Scalars are read at once; arrays are checked and remembered as ranges, because a vocabulary
//! is large and rarely wanted. Knows the types of values, not what any key means.

use std::collections::BTreeMap;
use std::ops::Range;

use super::cursor::Cursor;

/// A scalar, or where an array lies.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array { kind: u32, count: u64, range: Range<usize> },
}

const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Every key of the file.
pub(super) type Pairs = BTreeMap<String, Value>;

/// Reads `count` key-value pairs.
pub(super) fn read_pairs(cursor: &mut Cursor<'_>, count: u64) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    for _ in 0..count {
        let key = cursor.text("a metadata key")?.to_owned();
        let kind = cursor.u32(&key)?;
        let value = match kind {
            ARRAY => read_array(cursor, &key)?,
            _ => read_scalar(cursor, kind, &key)?,
        };
        if pairs.insert(key.clone(), value).is_some() {
            return Err(format!("metadata key {key} appears twice"));
        }
    }
    Ok(pairs)
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, String> {
    let kind = cursor.u32(key)?;
    let count = cursor.u64(key)?;
    let start = cursor.position();
    if kind == TEXT {
        for _ in 0..count {
            cursor.text(key)?;
        }
    } else {
        let size = scalar_size(kind).ok_or_else(|| format!("{key} is an array of unknown type {kind}"))?;
        let total = count.checked_mul(size).ok_or_else(|| format!("{key} has {count} elements"))?;
        cursor.take(total, key)?;
    }
    Ok(Value::Array { kind, count, range: start..cursor.position() })
}

fn scalar_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn read_scalar(cursor: &mut Cursor<'_>, kind: u32, key: &str) -> Result<Value, String> {
    if kind == TEXT {
        return Ok(Value::Text(cursor.text(key)?.to_owned()));
    }
    let size = scalar_size(kind).ok_or_else(|| format!("{key} has unknown type {kind}"))?;
    let bytes = cursor.take(size, key)?;
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(wide);
    // Shifting up and back extends the sign of the narrow types.
    let unused = 64 - 8 * size as u32;
    let signed = ((bits << unused) as i64) >> unused;
    Ok(match kind {
        1 | 3 | 5 | 11 => Value::Signed(signed),
        6 => Value::Float(f32::from_bits(bits as u32).into()),
        12 => Value::Float(f64::from_bits(bits)),
        7 => Value::Bool(bits != 0),
        _ => Value::Unsigned(bits),
    })
}

/// Metadata with typed access; errors say which key.
pub(super) struct Metadata {
    pairs: Pairs,
}

impl Metadata {
    pub(super) fn new(pairs: Pairs) -> Self {
        Self { pairs }
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.pairs.contains_key(key)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, String> {
        match self.pairs.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{key} is not a string")),
        }
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<u64>, String> {
        match self.pairs.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(value)) => Ok(Some(*value)),
            Some(Value::Signed(value)) if *value >= 0 => Ok(Some(*value as u64)),
            Some(Value::Array { .. }) => Err(format!("{key} differs between layers, which is not supported")),
            Some(_) => Err(format!("{key} is not a count")),
        }
    }

    pub(super) fn required_count(&self, key: &str) -> Result<u64, String> {
        self.count(key)?.ok_or_else(|| format!("it has no {key}"))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, String> {
        match self.pairs.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) if value.is_finite() => Ok(Some(*value)),
            Some(_) => Err(format!("{key} is not a finite number")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        match self.pairs.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(format!("{key} is not true or false")),
        }
    }

    /// The strings of an array; `file` are the bytes the metadata was read from.
    pub(super) fn texts<'a>(&self, key: &str, file: &'a [u8]) -> Result<Option<Vec<&'a str>>, String> {
        let Some(RawArray { kind, count, bytes }) = self.array(key, file)? else {
            return Ok(None);
        };
        if kind != TEXT {
            return Err(format!("{key} is not a list of strings"));
        }
        let mut cursor = Cursor::new(bytes);
        (0..count).map(|_| cursor.text(key)).collect::<Result<_, _>>().map(Some)
    }

    /// The elements of an array of i32, u32 or f32, as bits.
    pub(super) fn words(&self, key: &str, file: &[u8]) -> Result<Option<Vec<u32>>, String> {
        let Some(RawArray { kind, bytes, .. }) = self.array(key, file)? else {
            return Ok(None);
        };
        if !matches!(kind, 4..=6) {
            return Err(format!("{key} is not a list of 32-bit values"));
        }
        let word = |chunk: &[u8]| u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        Ok(Some(bytes.chunks_exact(4).map(word).collect()))
    }

    fn array<'a>(&self, key: &str, file: &'a [u8]) -> Result<Option<RawArray<'a>>, String> {
        match self.pairs.get(key) {
            None => Ok(None),
            Some(Value::Array { kind, count, range }) => {
                Ok(Some(RawArray { kind: *kind, count: *count, bytes: &file[range.clone()] }))
            }
            Some(_) => Err(format!("{key} is not a list")),
        }
    }
}

/// An array as it lies in the file.
struct RawArray<'a> {
    kind: u32,
    count: u64,
    bytes: &'a [u8],
}
