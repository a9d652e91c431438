//! Evaluation of lazy arrays.

use crate::array::{Array, pointers};
use crate::error::{Error, Result};
use crate::ffi::mlx as ffi;

/// Computes `arrays` and everything they need, and waits for it.
///
/// # Errors
/// With the first failure. What the arrays then hold is unspecified, and reading them may not
/// report it again; drop them.
pub fn eval(arrays: &[&Array]) -> Result<()> {
    ffi::eval(&pointers(arrays)).map_err(|e| Error::from_exception("eval", &[], &e))
}

/// Starts computing `arrays` and returns; reading one waits for it and reports its failure.
/// Keep the arrays until they are read or evaluated.
///
/// # Errors
/// When the computation cannot be started.
pub fn async_eval(arrays: &[&Array]) -> Result<()> {
    ffi::async_eval(&pointers(arrays)).map_err(|e| Error::from_exception("async_eval", &[], &e))
}

/// Waits for all work on this thread's default stream.
///
/// # Errors
/// With a failure of that work that no one has been told of yet.
pub fn synchronize() -> Result<()> {
    ffi::synchronize().map_err(|e| Error::from_exception("synchronize", &[], &e))
}
