//! Reading and writing parts of arrays.

use crate::array::{Array, returned};
use crate::error::Result;
use crate::ffi::mlx as ffi;

impl Array {
    /// The elements `start..stop` of each axis.
    ///
    /// # Errors
    /// When not every axis is named, or a range is not within its axis.
    pub fn slice(&self, start: &[i32], stop: &[i32]) -> Result<Array> {
        self.slice_strided(start, stop, &vec![1; self.ndim()])
    }

    /// Each `strides`-th of the elements `start..stop` of each axis.
    ///
    /// # Errors
    /// As [`Array::slice`], or when a stride is not positive.
    pub fn slice_strided(&self, start: &[i32], stop: &[i32], strides: &[i32]) -> Result<Array> {
        returned("slice", &[self], ffi::slice(self.raw(), start, stop, strides))
    }

    /// This array with `update` in place of the elements `start..stop`.
    ///
    /// # Errors
    /// As [`Array::slice`], or when `update` does not broadcast to the part.
    pub fn slice_update(&self, update: &Array, start: &[i32], stop: &[i32]) -> Result<Array> {
        let strides = vec![1; self.ndim()];
        let result = ffi::slice_update(self.raw(), update.raw(), start, stop, &strides);
        returned("slice_update", &[self, update], result)
    }

    /// The slices at integer `indices` along an axis; the axis becomes the shape of `indices`.
    /// Indices are not checked against the size of the axis.
    ///
    /// # Errors
    /// When the indices are not integers or there is no such axis.
    pub fn take(&self, indices: &Array, axis: i32) -> Result<Array> {
        returned("take", &[self, indices], ffi::take(self.raw(), indices.raw(), axis))
    }

    /// For each place of `indices`, the element at that index along the axis.
    /// Indices are not checked against the size of the axis.
    ///
    /// # Errors
    /// When the shapes differ elsewhere than along the axis.
    pub fn take_along_axis(&self, indices: &Array, axis: i32) -> Result<Array> {
        returned("take_along_axis", &[self, indices], ffi::take_along_axis(self.raw(), indices.raw(), axis))
    }

    /// This array with `values` at those indices along the axis.
    /// Indices are not checked against the size of the axis.
    ///
    /// # Errors
    /// When the shapes differ elsewhere than along the axis.
    pub fn put_along_axis(&self, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
        let result = ffi::put_along_axis(self.raw(), indices.raw(), values.raw(), axis);
        returned("put_along_axis", &[self, indices, values], result)
    }
}
