//! MLX's memory figures and limits, in bytes, for the whole process.

use crate::error::{Error, Result};
use crate::ffi::mlx as ffi;

/// Bytes held by arrays now, without the cache.
///
/// # Errors
/// When the backend fails.
pub fn active() -> Result<usize> {
    figure("active", ffi::Memory::Active)
}

/// The most bytes held by arrays since the start or the last [`reset_peak`].
///
/// # Errors
/// When the backend fails.
pub fn peak() -> Result<usize> {
    figure("peak", ffi::Memory::Peak)
}

/// Bytes of freed buffers kept for reuse.
///
/// # Errors
/// When the backend fails.
pub fn cache() -> Result<usize> {
    figure("cache", ffi::Memory::Cache)
}

/// The limit set by [`set_memory_limit`], or MLX's default for the device.
///
/// # Errors
/// When the backend fails.
pub fn limit() -> Result<usize> {
    figure("limit", ffi::Memory::Limit)
}

/// Starts the peak anew.
///
/// # Errors
/// When the backend fails.
pub fn reset_peak() -> Result<()> {
    ffi::memory_reset_peak().map_err(|e| Error::from_exception("reset_peak", &[], &e))
}

/// Sets how much memory evaluations should stay within, and returns the former limit. Evaluation
/// waits for running work above it; an array of 64 MiB or more that is larger than the limit is refused.
///
/// # Errors
/// When the backend fails.
pub fn set_memory_limit(bytes: usize) -> Result<usize> {
    ffi::memory_set_limit(bytes).map_err(|e| Error::from_exception("set_memory_limit", &[], &e))
}

/// Sets how much freed memory is kept for reuse, and returns the former limit.
///
/// # Errors
/// When the backend fails.
pub fn set_cache_limit(bytes: usize) -> Result<usize> {
    ffi::memory_set_cache_limit(bytes).map_err(|e| Error::from_exception("set_cache_limit", &[], &e))
}

/// Gives all cached memory back to the system.
///
/// # Errors
/// When the backend fails.
pub fn clear_cache() -> Result<()> {
    ffi::memory_clear_cache().map_err(|e| Error::from_exception("clear_cache", &[], &e))
}

fn figure(op: &'static str, which: ffi::Memory) -> Result<usize> {
    ffi::memory(which).map_err(|e| Error::from_exception(op, &[], &e))
}
