//! Random numbers: from an explicit key, or from this thread's own sequence of keys.

use crate::array::{Array, optional, returned};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::ffi::mlx as ffi;

/// A key made from a seed: u32 `[2]`. The same key gives the same numbers.
///
/// # Errors
/// When memory runs out.
pub fn key(seed: u64) -> Result<Array> {
    returned("random::key", &[], ffi::random_key(seed))
}

/// `parts` independent keys, u32 `[parts, 2]`.
///
/// # Errors
/// When `key` is not a key.
pub fn split(key: &Array, parts: i32) -> Result<Array> {
    returned("random::split", &[key], ffi::random_split(key.raw(), parts))
}

/// Starts this thread's own sequence of keys anew.
///
/// # Errors
/// When memory runs out.
pub fn seed(seed: u64) -> Result<()> {
    ffi::random_seed(seed).map_err(|e| Error::from_exception("random::seed", &[], &e))
}

/// Uniform in `low..high`.
///
/// # Errors
/// When `dtype` is not a float type, or `key` is not a key.
pub fn uniform(low: f32, high: f32, shape: &[i32], dtype: Dtype, key: Option<&Array>) -> Result<Array> {
    // SAFETY: `key` is null or borrowed for the call.
    let result = unsafe { ffi::random_uniform(low, high, shape, dtype.code(), optional(key)) };
    returned("random::uniform", &[], result)
}

/// Normal with mean 0 and deviation 1.
///
/// # Errors
/// When `dtype` is not a float type, or `key` is not a key.
pub fn normal(shape: &[i32], dtype: Dtype, key: Option<&Array>) -> Result<Array> {
    // SAFETY: `key` is null or borrowed for the call.
    returned("random::normal", &[], unsafe { ffi::random_normal(shape, dtype.code(), optional(key)) })
}

/// One index along `axis` for each row of unnormalised log-probabilities: u32, without that axis.
///
/// # Errors
/// When there is no such axis, or `key` is not a key.
pub fn categorical(logits: &Array, axis: i32, key: Option<&Array>) -> Result<Array> {
    // SAFETY: `key` is null or borrowed for the call.
    let result = unsafe { ffi::random_categorical(logits.raw(), axis, optional(key)) };
    returned("random::categorical", &[logits], result)
}
