//! The one error of this crate: arguments whose sizes disagree.
//!
//! Every public kernel checks its arguments before it touches memory, so the loops below it need no checks.
//! Knows nothing of models; callers add the name of the layer or tensor.

/// Arguments of a kernel that cannot belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// A buffer of the wrong length.
    #[error("{what} must hold {expected} values, got {found}")]
    Length {
        /// The argument.
        what: &'static str,
        /// Length the other arguments ask for.
        expected: usize,
        /// Length it has.
        found: usize,
    },
    /// A size that does not divide.
    #[error("{what} must be a multiple of {of}, got {found}")]
    Multiple {
        /// The size.
        what: &'static str,
        /// What must divide it.
        of: usize,
        /// Its value.
        found: usize,
    },
    /// A size outside its bounds.
    #[error("{what} must be between {least} and {most}, got {found}")]
    Bounds {
        /// The size.
        what: &'static str,
        /// Smallest allowed value.
        least: usize,
        /// Largest allowed value.
        most: usize,
        /// Its value.
        found: usize,
    },
    /// A number of bits no affine layout has.
    #[error("affine weights have 2, 3, 4, 5, 6 or 8 bits, got {0}")]
    Bits(u32),
    /// A group size no affine layout has.
    #[error("affine groups hold 32, 64 or 128 values, got {0}")]
    Group(usize),
    /// A row number past the end of a table.
    #[error("row {id} is outside a table of {rows} rows")]
    Row {
        /// The row asked for.
        id: usize,
        /// Rows there are.
        rows: usize,
    },
    /// Sizes whose product no buffer can have.
    #[error("the size of {what} overflows")]
    Overflow {
        /// The argument.
        what: &'static str,
    },
}

/// Checks that `what` holds the product of `dims`.
pub(crate) fn expect_len(what: &'static str, found: usize, dims: &[usize]) -> Result<(), ShapeError> {
    let expected = product(what, dims)?;
    if found == expected { Ok(()) } else { Err(ShapeError::Length { what, expected, found }) }
}

/// The product of `dims`.
pub(crate) fn product(what: &'static str, dims: &[usize]) -> Result<usize, ShapeError> {
    dims.iter().try_fold(1usize, |all, &d| all.checked_mul(d)).ok_or(ShapeError::Overflow { what })
}

/// Checks that `of` divides `found`.
pub(crate) fn expect_multiple(what: &'static str, found: usize, of: usize) -> Result<(), ShapeError> {
    if of != 0 && found.is_multiple_of(of) { Ok(()) } else { Err(ShapeError::Multiple { what, of, found }) }
}
