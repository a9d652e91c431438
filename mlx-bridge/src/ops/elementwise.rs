//! Functions of each element, of one array or of two broadcast against each other.

use crate::array::{Array, returned};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::ffi::mlx as ffi;

macro_rules! unary {
    ($($(#[$doc:meta])+ $name:ident => $op:ident;)*) => {
        /// Functions of each element.
        ///
        /// # Errors
        /// When the dtype does not have the function.
        impl Array {
            $(
                $(#[$doc])+
                #[expect(clippy::missing_errors_doc, reason = "said once for the block")]
                pub fn $name(&self) -> Result<Array> {
                    returned(stringify!($name), &[self], ffi::unary(ffi::Unary::$op, self.raw()))
                }
            )*
        }
    };
}

macro_rules! binary {
    ($($(#[$doc:meta])+ $name:ident => $op:ident;)*) => {
        /// Functions of two arrays; shapes broadcast, dtypes promote.
        ///
        /// # Errors
        /// When the shapes do not broadcast, or the dtype does not have the function.
        impl Array {
            $(
                $(#[$doc])+
                #[expect(clippy::missing_errors_doc, reason = "said once for the block")]
                pub fn $name(&self, other: &Array) -> Result<Array> {
                    let result = ffi::binary(ffi::Binary::$op, self.raw(), other.raw());
                    returned(stringify!($name), &[self, other], result)
                }
            )*
        }
    };
}

unary! {
    /// Absolute value.
    abs => Abs;
    /// The next integer upwards.
    ceil => Ceil;
    /// Cosine.
    cos => Cos;
    /// Error function.
    erf => Erf;
    /// e to the power of each element.
    exp => Exp;
    /// `exp(x) - 1`, exact near 0.
    expm1 => Expm1;
    /// The next integer downwards.
    floor => Floor;
    /// Neither infinite nor NaN: boolean.
    is_finite => IsFinite;
    /// Natural logarithm.
    log => Log;
    /// `log(1 + x)`, exact near 0.
    log1p => Log1p;
    /// Zero becomes true, anything else false.
    logical_not => LogicalNot;
    /// `-x`.
    negative => Negative;
    /// `1 / x`.
    reciprocal => Reciprocal;
    /// The nearest integer, halves to even.
    round => Round;
    /// `1 / sqrt(x)`.
    rsqrt => Rsqrt;
    /// `1 / (1 + exp(-x))`.
    sigmoid => Sigmoid;
    /// -1, 0 or 1.
    sign => Sign;
    /// Sine.
    sin => Sin;
    /// Square root.
    sqrt => Sqrt;
    /// `x * x`.
    square => Square;
    /// The array itself, through which no gradient flows.
    stop_gradient => StopGradient;
    /// Hyperbolic tangent.
    tanh => Tanh;
}

binary! {
    /// `a + b`.
    add => Add;
    /// Bits set in both; integers or booleans.
    bitwise_and => BitwiseAnd;
    /// Bits set in either; integers or booleans.
    bitwise_or => BitwiseOr;
    /// `a / b`, a float.
    divide => Divide;
    /// `a == b`.
    equal => Equal;
    /// `a / b` rounded down.
    floor_divide => FloorDivide;
    /// `a > b`.
    greater => Greater;
    /// `a >= b`.
    greater_equal => GreaterEqual;
    /// `a << b`; integers.
    left_shift => LeftShift;
    /// `a < b`.
    less => Less;
    /// `a <= b`.
    less_equal => LessEqual;
    /// `log(exp(a) + exp(b))`, without overflow.
    logaddexp => LogAddExp;
    /// Both not zero.
    logical_and => LogicalAnd;
    /// Either not zero.
    logical_or => LogicalOr;
    /// The larger.
    maximum => Maximum;
    /// The smaller.
    minimum => Minimum;
    /// `a * b`.
    multiply => Multiply;
    /// `a != b`.
    not_equal => NotEqual;
    /// a to the power of b.
    power => Power;
    /// The remainder of `a / b`, with the sign of b.
    remainder => Remainder;
    /// `a >> b`; integers.
    right_shift => RightShift;
    /// `a - b`.
    subtract => Subtract;
}

impl Array {
    /// Elements converted to `dtype`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn astype(&self, dtype: Dtype) -> Result<Array> {
        returned("astype", &[self], ffi::astype(self.raw(), dtype.code()))
    }

    /// `self + value`, in this array's dtype.
    ///
    /// # Errors
    /// As [`Array::add`].
    pub fn add_scalar(&self, value: f32) -> Result<Array> {
        self.add(&self.scalar_like(value)?)
    }

    /// `self * value`, in this array's dtype.
    ///
    /// # Errors
    /// As [`Array::multiply`].
    pub fn multiply_scalar(&self, value: f32) -> Result<Array> {
        self.multiply(&self.scalar_like(value)?)
    }

    /// A scalar of this array's dtype, so that an operation with it does not promote.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn scalar_like(&self, value: f32) -> Result<Array> {
        Array::full(&[], f64::from(value), self.dtype())
    }

    /// `yes` where `condition` is true, `no` elsewhere; all broadcast.
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub fn select(condition: &Array, yes: &Array, no: &Array) -> Result<Array> {
        returned("where", &[condition, yes, no], ffi::select(condition.raw(), yes.raw(), no.raw()))
    }
}
