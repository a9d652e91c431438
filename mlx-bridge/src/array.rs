//! The array: making one, looking at it, reading its elements.
//!
//! A handle is a reference to a node of MLX's lazy graph: cloning it copies no data, and an
//! operation on it computes nothing until someone evaluates. It may be used only on the thread
//! that made it, because MLX's streams belong to threads.

use std::ops::Range;

use cxx::UniquePtr;

use crate::dtype::{Dtype, Element, readable_as};
use crate::error::{Error, ErrorKind, Result};
use crate::ffi::mlx as ffi;
use crate::owner::Owner;

/// A multi-dimensional array, perhaps not computed yet.
pub struct Array {
    // Never null: made by `returned`, which checks.
    handle: UniquePtr<ffi::CxxArray>,
}

impl Array {
    /// An array of `shape` holding a copy of `data` in row-major order.
    ///
    /// # Errors
    /// When `shape` has a negative size or its product is not `data.len()`.
    pub fn from_slice<T: Element>(data: &[T], shape: &[i32]) -> Result<Self> {
        Self::from_bytes(bytemuck::cast_slice(data), T::DTYPE, shape)
    }

    /// An array of `shape` and `dtype` holding a copy of `bytes` in row-major order.
    ///
    /// # Errors
    /// When `shape` has a negative size or does not fill `bytes` exactly.
    pub fn from_bytes(bytes: &[u8], dtype: Dtype, shape: &[i32]) -> Result<Self> {
        const OP: &str = "from_bytes";
        check_bytes(OP, bytes.len(), dtype, shape)?;
        returned(OP, &[], ffi::array_from_bytes(bytes, shape, dtype.code()))
    }

    /// An array over `range` of the bytes of `owner`, such as a memory-mapped file, which is
    /// dropped once no array uses it. The CPU and Metal backends read the owner's memory in place
    /// where they can; CUDA, and a range not aligned to the dtype, take a copy.
    ///
    /// The bytes must not change while the array lives, as for any `&[u8]`.
    ///
    /// # Errors
    /// When the range is outside the owner's bytes or `shape` does not fill it exactly.
    pub fn from_owner(
        owner: impl AsRef<[u8]> + Send + Sync + 'static,
        range: Range<usize>,
        dtype: Dtype,
        shape: &[i32],
    ) -> Result<Self> {
        const OP: &str = "from_owner";
        // Boxed first, so that an owner that holds its bytes inline does not move afterwards.
        let owner = std::sync::Arc::new(owner);
        let all: &[u8] = (*owner).as_ref();
        let (start, end, len) = (range.start, range.end, all.len());
        let bytes = all.get(range).ok_or_else(|| {
            Error::argument(
                OP,
                format!("byte range must lie within the owner's {len} bytes, got {start}..{end}"),
            )
        })?;
        check_bytes(OP, bytes.len(), dtype, shape)?;
        let data = bytes.as_ptr();
        if data.align_offset(dtype.size()) != 0 || bytes.is_empty() {
            return Self::from_bytes(bytes, dtype, shape);
        }
        // SAFETY: `data` covers the shape's bytes (checked) and is aligned (checked); it points into
        // the owner, which stays in its `Arc`, unmoved, until C++ drops the `Owner`.
        let made = unsafe { ffi::array_from_owner(data, shape, dtype.code(), Owner::new(owner)) };
        returned(OP, &[], made)
    }

    /// A scalar array (no dimensions) of type `T`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn scalar<T: Element>(value: T) -> Result<Self> {
        Self::from_slice(&[value], &[])
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &[i32] {
        ffi::array_shape(self.raw())
    }

    /// The size of dimension `axis`, counted from the end when negative.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn dim(&self, axis: i32) -> Result<i32> {
        let shape = self.shape();
        let index = if axis < 0 { axis + shape.len() as i32 } else { axis };
        let size = usize::try_from(index).ok().and_then(|index| shape.get(index));
        size.copied().ok_or_else(|| {
            let message = format!("axis must be within {} dimensions, got {axis}", shape.len());
            Error::new("dim", ErrorKind::Argument, &[self], message)
        })
    }

    /// The number of dimensions.
    pub fn ndim(&self) -> usize {
        self.shape().len()
    }

    /// The number of elements.
    pub fn size(&self) -> usize {
        ffi::array_size(self.raw())
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        Dtype::from_code(ffi::array_dtype(self.raw()))
    }

    /// Bytes of all elements.
    pub fn nbytes(&self) -> usize {
        ffi::array_nbytes(self.raw())
    }

    /// Evaluates, and copies the elements out in row-major order.
    ///
    /// # Errors
    /// When `T` is not the array's dtype, or the evaluation fails.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        const OP: &str = "to_vec";
        self.check_readable::<T>(OP)?;
        let mut out = vec![T::zeroed(); self.size()];
        let copied = ffi::array_copy_to(self.raw(), bytemuck::cast_slice_mut(&mut out));
        copied.map_err(|e| Error::from_exception(OP, &[self], &e)).map(|()| out)
    }

    /// Evaluates, and returns the one element.
    ///
    /// # Errors
    /// When there is not exactly one element, `T` is not the array's dtype, or the evaluation fails.
    pub fn item<T: Element>(&self) -> Result<T> {
        const OP: &str = "item";
        self.check_readable::<T>(OP)?;
        if self.size() != 1 {
            return Err(Error::new(OP, ErrorKind::Argument, &[self], "the array must have one element"));
        }
        let mut value = T::zeroed();
        let copied = ffi::array_copy_to(self.raw(), bytemuck::bytes_of_mut(&mut value));
        copied.map_err(|e| Error::from_exception(OP, &[self], &e)).map(|()| value)
    }

    /// Evaluates, and lends the elements without a copy.
    ///
    /// # Errors
    /// When `T` is not the array's dtype, the array is not row-contiguous, or the evaluation fails.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        const OP: &str = "as_slice";
        self.check_readable::<T>(OP)?;
        let bytes = ffi::array_bytes(self.raw()).map_err(|e| Error::from_exception(OP, &[self], &e))?;
        if bytes.is_empty() {
            return Ok(&[]);
        }
        bytemuck::try_cast_slice(bytes).map_err(|e| {
            Error::new(OP, ErrorKind::Argument, &[self], format!("the buffer is not aligned: {e}"))
        })
    }

    fn check_readable<T: Element>(&self, op: &'static str) -> Result<()> {
        if readable_as::<T>(self.dtype()) {
            return Ok(());
        }
        let message = format!("the elements must be read by their own type, got {}", T::DTYPE);
        Err(Error::new(op, ErrorKind::Argument, &[self], message))
    }

    pub(crate) fn raw(&self) -> &ffi::CxxArray {
        &self.handle
    }

    pub(crate) fn pointer(&self) -> *const ffi::CxxArray {
        self.raw()
    }
}

impl Clone for Array {
    fn clone(&self) -> Self {
        Self { handle: ffi::array_clone(self.raw()) }
    }
}

/// Dtype and shape, such as `float32[2, 3]`; never evaluates.
impl std::fmt::Debug for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.dtype(), self.shape())
    }
}

/// Wraps what an MLX call returned, or says what failed.
pub(crate) fn returned(
    op: &'static str,
    operands: &[&Array],
    result: std::result::Result<UniquePtr<ffi::CxxArray>, cxx::Exception>,
) -> Result<Array> {
    match result {
        Ok(handle) if !handle.is_null() => Ok(Array { handle }),
        Ok(_) => Err(Error::new(op, ErrorKind::Other, operands, "MLX returned no array")),
        Err(exception) => Err(Error::from_exception(op, operands, &exception)),
    }
}

/// Wraps several returned arrays.
pub(crate) fn returned_list(
    op: &'static str,
    operands: &[&Array],
    result: std::result::Result<UniquePtr<ffi::ArrayList>, cxx::Exception>,
) -> Result<Vec<Array>> {
    let list = result.map_err(|e| Error::from_exception(op, operands, &e))?;
    (0..list.len()).map(|i| returned(op, operands, list.at(i))).collect()
}

/// The pointers C++ takes a list of arrays by.
pub(crate) fn pointers(arrays: &[&Array]) -> Vec<*const ffi::CxxArray> {
    arrays.iter().map(|array| array.pointer()).collect()
}

/// The pointer C++ takes an optional array by.
pub(crate) fn optional(array: Option<&Array>) -> *const ffi::CxxArray {
    array.map_or(std::ptr::null(), Array::pointer)
}

fn check_bytes(op: &'static str, bytes: usize, dtype: Dtype, shape: &[i32]) -> Result<()> {
    let size = shape.iter().try_fold(dtype.size(), |size, &dim| size.checked_mul(usize::try_from(dim).ok()?));
    if size == Some(bytes) {
        return Ok(());
    }
    Err(Error::argument(
        op,
        format!("shape {shape:?} of {dtype} must fill the data exactly, got {bytes} bytes"),
    ))
}
