//! Matrix products and convolution of floats.

use crate::array::{Array, returned};
use crate::error::Result;
use crate::ffi::mlx as ffi;

impl Array {
    /// Matrix product over the last two axes; the others broadcast.
    ///
    /// # Errors
    /// When the inner sizes differ or a dtype is not a float.
    pub fn matmul(&self, other: &Array) -> Result<Array> {
        let result = ffi::binary(ffi::Binary::Matmul, self.raw(), other.raw());
        returned("matmul", &[self, other], result)
    }

    /// `x @ w[experts[i]]` for each row: `x` is `[..., 1 or rows, in]`, `w` is `[experts, in, out]`,
    /// and the integer `experts` broadcast with the leading axes of `x`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn gather_mm(&self, w: &Array, experts: &Array) -> Result<Array> {
        returned("gather_mm", &[self, w, experts], ffi::gather_mm(self.raw(), w.raw(), experts.raw()))
    }

    /// Convolution along one axis: this is `[batch, length, in]`, `w` is `[out, width, in / groups]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn conv1d(&self, w: &Array, stride: i32, padding: i32, groups: i32) -> Result<Array> {
        returned("conv1d", &[self, w], ffi::conv1d(self.raw(), w.raw(), stride, padding, groups))
    }
}
