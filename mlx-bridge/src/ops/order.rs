//! Order along one axis: the largest, sorting, partitions.

use crate::array::{Array, returned};
use crate::error::Result;
use crate::ffi::mlx as ffi;

impl Array {
    /// Index of the largest along an axis, u32.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn argmax(&self, axis: i32, keep_dims: bool) -> Result<Array> {
        self.along(("argmax", ffi::Along::ArgMax), 0, axis, keep_dims)
    }

    /// Index of the smallest along an axis, u32.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn argmin(&self, axis: i32, keep_dims: bool) -> Result<Array> {
        self.along(("argmin", ffi::Along::ArgMin), 0, axis, keep_dims)
    }

    /// Ascending along an axis.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn sort(&self, axis: i32) -> Result<Array> {
        self.along(("sort", ffi::Along::Sort), 0, axis, false)
    }

    /// The indices that sort an axis ascending, u32.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn argsort(&self, axis: i32) -> Result<Array> {
        self.along(("argsort", ffi::Along::ArgSort), 0, axis, false)
    }

    /// Element `kth` in its sorted place, no larger ones before it, no smaller ones after.
    ///
    /// # Errors
    /// When there is no such axis or element.
    pub fn partition(&self, kth: i32, axis: i32) -> Result<Array> {
        self.along(("partition", ffi::Along::Partition), kth, axis, false)
    }

    /// The indices that partition an axis, u32.
    ///
    /// # Errors
    /// When there is no such axis or element.
    pub fn argpartition(&self, kth: i32, axis: i32) -> Result<Array> {
        self.along(("argpartition", ffi::Along::ArgPartition), kth, axis, false)
    }

    /// The `k` largest along an axis, in no promised order.
    ///
    /// # Errors
    /// When the axis has fewer than `k`.
    pub fn topk(&self, k: i32, axis: i32) -> Result<Array> {
        self.along(("topk", ffi::Along::TopK), k, axis, false)
    }

    fn along(
        &self,
        (name, op): (&'static str, ffi::Along),
        argument: i32,
        axis: i32,
        keep_dims: bool,
    ) -> Result<Array> {
        returned(name, &[self], ffi::along(op, self.raw(), argument, axis, keep_dims))
    }
}
