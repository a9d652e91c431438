//! The residual stream between blocks.
//!
//! Lets the addition of a block's output wait for the norm that follows, so that an arithmetic may do both at once.
//! Knows no arithmetic but the choice of rows.

use mlxcel_mlx_bridge::{Array, Result};

use super::arithmetic::length;

/// `hidden`, `[tokens, width]`, and what is still to be added to it.
pub(crate) struct Residual {
    pub(crate) hidden: Array,
    /// As `hidden`.
    pub(crate) delta: Option<Array>,
}

impl Residual {
    /// The stream as it begins, with the embedded tokens.
    pub(crate) fn new(hidden: Array) -> Self {
        Self { hidden, delta: None }
    }

    /// The stream with what was still to be added.
    pub(crate) fn added(&self) -> Result<Array> {
        self.delta.as_ref().map_or_else(|| Ok(self.hidden.clone()), |delta| self.hidden.add(delta))
    }

    /// The given rows of `tokens`; the stream itself where they are all of them.
    pub(crate) fn select(self, rows: &[u32], tokens: usize) -> Result<Self> {
        if rows.len() == tokens {
            return Ok(self);
        }
        let rows = Array::from_slice(rows, &[length(rows.len())])?;
        let delta = self.delta.map(|delta| delta.take(&rows, 0)).transpose()?;
        Ok(Self { hidden: self.hidden.take(&rows, 0)?, delta })
    }

    /// An array whose evaluation computes all of it.
    pub(crate) fn computed(self) -> Array {
        self.delta.unwrap_or(self.hidden)
    }
}
