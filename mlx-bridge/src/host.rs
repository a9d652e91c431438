//! Host operations: nodes of the graph whose work is a Rust closure on the CPU stream.
//!
//! They run in stream order with MLX's own CPU operations, once for each evaluation. What a
//! closure computes, and which threads it uses to do so, is its own affair.

use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use crate::array::{Array, pointers, returned, returned_list};
use crate::dtype::{Dtype, Element, readable_as};
use crate::error::{Error, Result};
use crate::ffi::mlx as ffi;

type Kernel =
    dyn Fn(&[HostInput<'_>], &mut [HostOutput<'_>]) -> std::result::Result<(), String> + Send + Sync;

/// A new node with `inputs` and an output for each shape and dtype of `outputs`, computed by
/// `kernel` when it is evaluated. The closure may hold shared state, such as a cache behind a
/// mutex; its effects happen in the order of the stream, exactly once.
///
/// Inputs reach the kernel row-contiguous. Outputs start with arbitrary contents, and the kernel
/// writes all of them. An error or a panic of the kernel zeroes the outputs and surfaces, with
/// [`ErrorKind::Kernel`](crate::ErrorKind::Kernel), where the result is evaluated or read.
///
/// # Errors
/// When there are no outputs, or a size is negative or too large.
pub fn host_op(
    name: &'static str,
    inputs: &[&Array],
    outputs: &[(&[i32], Dtype)],
    kernel: impl Fn(&[HostInput<'_>], &mut [HostOutput<'_>]) -> std::result::Result<(), String>
    + Send
    + Sync
    + 'static,
) -> Result<Vec<Array>> {
    if outputs.is_empty() {
        return Err(Error::argument(name, "a host operation must have an output"));
    }
    for (shape, _) in outputs {
        check_shape(name, shape)?;
    }
    let shapes: Vec<i32> = outputs.iter().flat_map(|(shape, _)| shape.iter().copied()).collect();
    let ranks: Vec<u8> = outputs.iter().map(|(shape, _)| shape.len() as u8).collect();
    let dtypes: Vec<u8> = outputs.iter().map(|(_, dtype)| dtype.code()).collect();
    let kernel = Box::new(HostKernel(Box::new(kernel)));
    returned_list(name, inputs, ffi::host_op(name, &pointers(inputs), &shapes, &ranks, &dtypes, kernel))
}

/// [`host_op`] with one output.
///
/// # Errors
/// As [`host_op`].
pub fn host_op_single(
    name: &'static str,
    inputs: &[&Array],
    shape: &[i32],
    dtype: Dtype,
    kernel: impl Fn(&[HostInput<'_>], &mut HostOutput<'_>) -> std::result::Result<(), String>
    + Send
    + Sync
    + 'static,
) -> Result<Array> {
    check_shape(name, shape)?;
    let one = move |inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]| kernel(inputs, &mut outputs[0]);
    let kernel = Box::new(HostKernel(Box::new(one)));
    returned(name, inputs, ffi::host_op_single(name, &pointers(inputs), shape, dtype.code(), kernel))
}

fn check_shape(name: &'static str, shape: &[i32]) -> Result<()> {
    if shape.iter().all(|&size| size >= 0) && shape.len() <= usize::from(u8::MAX) {
        return Ok(());
    }
    Err(Error::argument(name, format!("output sizes must not be negative, got {shape:?}")))
}

/// The closure as C++ holds it.
pub(crate) struct HostKernel(Box<Kernel>);

impl HostKernel {
    /// Called by C++ on the stream's thread.
    pub(crate) fn run(
        &self,
        inputs: &[ffi::HostView<'_>],
        outputs: &[ffi::HostView<'_>],
    ) -> std::result::Result<(), String> {
        let inputs: Vec<_> = inputs.iter().map(HostInput::of).collect();
        let mut outputs: Vec<_> = outputs.iter().map(HostOutput::of).collect();
        // What a panic leaves behind is seen by no one: C++ zeroes the outputs, and shared state
        // is the closure's own, behind locks that poison.
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.0)(&inputs, &mut outputs)));
        let outcome =
            outcome.unwrap_or_else(|panic| Err(format!("panicked: {}", panic_text(panic.as_ref()))));
        if outcome.is_err() {
            FAILURES.with(|failures| failures.set(failures.get() + 1));
        }
        outcome
    }
}

thread_local! {
    /// Host operations that failed on this stream's thread.
    static FAILURES: Cell<u64> = const { Cell::new(0) };
}

/// Tells a host operation whether one before it on its stream has failed: what it is given may be made of zeros then,
/// since an evaluation reports a failure when it has come to its end. Whoever lets results out of the process asks.
#[derive(Debug, Default)]
pub struct FailureWatch {
    at_first: OnceLock<u64>,
}

impl FailureWatch {
    /// To be called by kernels, all of one stream.
    ///
    /// # Errors
    /// When a host operation has failed on the stream since the first call.
    pub fn check(&self) -> std::result::Result<(), String> {
        let now = FAILURES.with(Cell::get);
        match *self.at_first.get_or_init(|| now) == now {
            true => Ok(()),
            false => Err("an operation that this one depends on has failed".to_owned()),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// An input of a host operation, row-contiguous, during one call.
#[derive(Debug, Clone, Copy)]
pub struct HostInput<'a> {
    bytes: &'a [u8],
    shape: &'a [i32],
    dtype: Dtype,
}

impl<'a> HostInput<'a> {
    fn of(view: &ffi::HostView<'a>) -> Self {
        let bytes = if view.bytes == 0 {
            &[]
        } else {
            // SAFETY: C++ keeps `data` readable for `bytes` during the call, and nothing writes to
            // an input: MLX gives a buffer to another node only once no node before it uses it.
            unsafe { std::slice::from_raw_parts(view.data.cast_const(), view.bytes) }
        };
        Self { bytes, shape: view.shape, dtype: Dtype::from_code(view.dtype) }
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &'a [i32] {
        self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// All bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements.
    ///
    /// # Errors
    /// When `T` is not the array's dtype.
    pub fn as_slice<T: Element>(&self) -> std::result::Result<&'a [T], String> {
        check::<T>(self.dtype)?;
        if self.bytes.is_empty() {
            return Ok(&[]);
        }
        bytemuck::try_cast_slice(self.bytes)
            .map_err(|e| format!("the input cannot be read as {}: {e}", T::DTYPE))
    }

    /// The elements of a float32 array.
    ///
    /// # Errors
    /// When the dtype is another.
    pub fn as_f32(&self) -> std::result::Result<&'a [f32], String> {
        self.as_slice()
    }

    /// The elements of a uint32 array.
    ///
    /// # Errors
    /// When the dtype is another.
    pub fn as_u32(&self) -> std::result::Result<&'a [u32], String> {
        self.as_slice()
    }

    /// The elements of an int32 array.
    ///
    /// # Errors
    /// When the dtype is another.
    pub fn as_i32(&self) -> std::result::Result<&'a [i32], String> {
        self.as_slice()
    }
}

/// An output of a host operation, row-contiguous, to be written during one call.
#[derive(Debug)]
pub struct HostOutput<'a> {
    data: *mut u8,
    bytes: usize,
    shape: &'a [i32],
    dtype: Dtype,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> HostOutput<'a> {
    fn of(view: &ffi::HostView<'a>) -> Self {
        let dtype = Dtype::from_code(view.dtype);
        Self { data: view.data, bytes: view.bytes, shape: view.shape, dtype, memory: PhantomData }
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &'a [i32] {
        self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// All bytes, with arbitrary contents until written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if self.bytes == 0 {
            return &mut [];
        }
        // SAFETY: C++ allocated this buffer for this call alone and keeps it for the call; any bytes
        // are valid `u8`s; the borrow of `self` keeps a second slice from existing.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.bytes) }
    }

    /// The elements, with arbitrary contents until written.
    ///
    /// # Errors
    /// When `T` is not the array's dtype.
    pub fn as_mut_slice<T: Element>(&mut self) -> std::result::Result<&mut [T], String> {
        check::<T>(self.dtype)?;
        if self.bytes == 0 {
            return Ok(&mut []);
        }
        bytemuck::try_cast_slice_mut(self.bytes_mut())
            .map_err(|e| format!("the output cannot be written as {}: {e}", T::DTYPE))
    }

    /// The elements of a float32 array, with arbitrary contents until written.
    ///
    /// # Errors
    /// When the dtype is another.
    pub fn as_f32_mut(&mut self) -> std::result::Result<&mut [f32], String> {
        self.as_mut_slice()
    }

    /// The elements of a uint32 array, with arbitrary contents until written.
    ///
    /// # Errors
    /// When the dtype is another.
    pub fn as_u32_mut(&mut self) -> std::result::Result<&mut [u32], String> {
        self.as_mut_slice()
    }
}

fn check<T: Element>(dtype: Dtype) -> std::result::Result<(), String> {
    if readable_as::<T>(dtype) {
        return Ok(());
    }
    Err(format!("the array holds {dtype}, it cannot be used as {}", T::DTYPE))
}
