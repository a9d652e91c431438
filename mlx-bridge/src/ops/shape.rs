//! Making arrays, and changing their shape.

use crate::array::{Array, pointers, returned, returned_list};
use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::ffi::mlx as ffi;

/// Making arrays.
impl Array {
    /// Every element is `value`.
    ///
    /// # Errors
    /// When a size is negative or the array does not fit into memory.
    pub fn full(shape: &[i32], value: f64, dtype: Dtype) -> Result<Array> {
        returned("full", &[], ffi::full(shape, value, dtype.code()))
    }

    /// Every element is 0.
    ///
    /// # Errors
    /// As [`Array::full`].
    pub fn zeros(shape: &[i32], dtype: Dtype) -> Result<Array> {
        Self::full(shape, 0.0, dtype)
    }

    /// Every element is 1.
    ///
    /// # Errors
    /// As [`Array::full`].
    pub fn ones(shape: &[i32], dtype: Dtype) -> Result<Array> {
        Self::full(shape, 1.0, dtype)
    }

    /// `start`, `start + step`, ... below `stop`, one axis.
    ///
    /// # Errors
    /// When there would be too many elements, or `dtype` is boolean.
    pub fn arange(start: f64, stop: f64, step: f64, dtype: Dtype) -> Result<Array> {
        returned("arange", &[], ffi::arange(start, stop, step, dtype.code()))
    }
}

/// Changing shape.
impl Array {
    /// The same elements in row-major order; one size may be -1, to be inferred.
    ///
    /// # Errors
    /// When the sizes do not hold the same number of elements.
    pub fn reshape(&self, shape: &[i32]) -> Result<Array> {
        returned("reshape", &[self], ffi::reshape(self.raw(), shape))
    }

    /// Axis i of the result is axis `axes[i]` of this; no axes reverses them all.
    ///
    /// # Errors
    /// When `axes` is not a permutation.
    pub fn transpose(&self, axes: &[i32]) -> Result<Array> {
        returned("transpose", &[self], ffi::transpose(self.raw(), axes))
    }

    /// New axes of size 1, at these places of the result.
    ///
    /// # Errors
    /// When an axis is out of range or named twice.
    pub fn expand_dims(&self, axes: &[i32]) -> Result<Array> {
        returned("expand_dims", &[self], ffi::expand_dims(self.raw(), axes))
    }

    /// Without these axes of size 1; no axes removes all of size 1.
    ///
    /// # Errors
    /// When an axis is not of size 1.
    pub fn squeeze(&self, axes: &[i32]) -> Result<Array> {
        returned("squeeze", &[self], ffi::squeeze(self.raw(), axes))
    }

    /// Repeated along axes of size 1, without copying.
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub fn broadcast_to(&self, shape: &[i32]) -> Result<Array> {
        returned("broadcast_to", &[self], ffi::broadcast_to(self.raw(), shape))
    }

    /// Joined along an axis.
    ///
    /// # Errors
    /// When there are no arrays, or they differ in another axis.
    pub fn concatenate(arrays: &[&Array], axis: i32) -> Result<Array> {
        returned("concatenate", arrays, ffi::concatenate(&pointers(arrays), axis))
    }

    /// Joined along a new axis.
    ///
    /// # Errors
    /// When there are no arrays, or they differ in shape.
    pub fn stack(arrays: &[&Array], axis: i32) -> Result<Array> {
        returned("stack", arrays, ffi::stack(&pointers(arrays), axis))
    }

    /// Cut into equal parts along an axis.
    ///
    /// # Errors
    /// When the axis does not divide into `parts`.
    pub fn split(&self, parts: i32, axis: i32) -> Result<Vec<Array>> {
        returned_list("split", &[self], ffi::split(self.raw(), parts, axis))
    }

    /// Cut along an axis before each of `indices`, which ascend.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn split_at(&self, indices: &[i32], axis: i32) -> Result<Vec<Array>> {
        returned_list("split_at", &[self], ffi::split_at(self.raw(), indices, axis))
    }

    /// Surrounded by `value`: `low[i]` elements before and `high[i]` after axis i.
    ///
    /// # Errors
    /// When a count is negative or the lengths are not the number of axes.
    pub fn pad(&self, low: &[i32], high: &[i32], value: f32) -> Result<Array> {
        if low.len() != self.ndim() || high.len() != self.ndim() {
            let message = format!("pad must name each axis, got {low:?} and {high:?}");
            return Err(Error::new("pad", ErrorKind::Argument, &[self], message));
        }
        returned("pad", &[self], ffi::pad(self.raw(), low, high, value))
    }

    /// Each element `repeats` times in a row along an axis.
    ///
    /// # Errors
    /// When `repeats` is negative or there is no such axis.
    pub fn repeat(&self, repeats: i32, axis: i32) -> Result<Array> {
        returned("repeat", &[self], ffi::along(ffi::Along::Repeat, self.raw(), repeats, axis, false))
    }

    /// Row-contiguous in memory; the array itself where it already is.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn contiguous(&self) -> Result<Array> {
        returned("contiguous", &[self], ffi::contiguous(self.raw()))
    }

    /// The same bytes read as `dtype`; the last axis changes size with the element.
    ///
    /// # Errors
    /// When the last axis does not divide.
    pub fn view(&self, dtype: Dtype) -> Result<Array> {
        returned("view", &[self], ffi::view(self.raw(), dtype.code()))
    }

    /// Zero above a diagonal of the last two axes.
    ///
    /// # Errors
    /// When there are fewer than two axes.
    pub fn tril(&self, diagonal: i32) -> Result<Array> {
        returned("tril", &[self], ffi::tril(self.raw(), diagonal))
    }

    /// Zero below a diagonal of the last two axes.
    ///
    /// # Errors
    /// When there are fewer than two axes.
    pub fn triu(&self, diagonal: i32) -> Result<Array> {
        returned("triu", &[self], ffi::triu(self.raw(), diagonal))
    }
}
