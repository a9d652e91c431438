//! Reductions over axes, and functions that keep the shape but mix along an axis.

use crate::array::{Array, returned};
use crate::error::Result;
use crate::ffi::mlx as ffi;

macro_rules! reductions {
    ($($(#[$doc:meta])+ $name:ident => $op:ident;)*) => {
        /// Reductions over `axes`, which stay with size 1 when `keep_dims`.
        ///
        /// # Errors
        /// When there is no such axis, or an empty axis has no value to reduce to.
        impl Array {
            $(
                $(#[$doc])+
                #[expect(clippy::missing_errors_doc, reason = "said once for the block")]
                pub fn $name(&self, axes: &[i32], keep_dims: bool) -> Result<Array> {
                    let result = ffi::reduce(ffi::Reduce::$op, self.raw(), axes, keep_dims);
                    returned(stringify!($name), &[self], result)
                }
            )*
        }
    };
}

reductions! {
    /// Whether all are not zero.
    all => All;
    /// Whether any is not zero.
    any => Any;
    /// `log(sum(exp(x)))`, without overflow.
    logsumexp => LogSumExp;
    /// The largest.
    max => Max;
    /// The mean.
    mean => Mean;
    /// The smallest.
    min => Min;
    /// The product.
    prod => Prod;
    /// The sum.
    sum => Sum;
    /// The variance, divided by the number of elements.
    var => Var;
}

impl Array {
    /// Softmax over `axes`; `precise` computes narrow floats in f32.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn softmax(&self, axes: &[i32], precise: bool) -> Result<Array> {
        returned("softmax", &[self], ffi::softmax(self.raw(), axes, precise))
    }

    /// Running sum along an axis, each element included.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn cumsum(&self, axis: i32) -> Result<Array> {
        returned("cumsum", &[self], ffi::cumsum(self.raw(), axis, false, true))
    }

    /// Running sum along an axis, of the elements before each.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn cumsum_exclusive(&self, axis: i32) -> Result<Array> {
        returned("cumsum", &[self], ffi::cumsum(self.raw(), axis, false, false))
    }
}
