//! The kernels made so far, by name.
//!
//! Knows how an instance of a template becomes a kernel, and nothing of what it computes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use mlxcel_mlx_bridge::cuda::{Kernel, KernelSource, Launch};
use mlxcel_mlx_bridge::{Array, Dtype, Error, ErrorKind, Result};

/// Kernels of one engine, made when they are first launched.
pub(crate) struct Kernels {
    header: String,
    made: RefCell<HashMap<String, Rc<Kernel>>>,
}

/// An instance of a template.
pub(crate) struct Instance<'a> {
    /// Unlike that of every other instance.
    pub(crate) name: String,
    pub(crate) inputs: &'a [&'a str],
    pub(crate) outputs: &'a [&'a str],
    /// The activations' dtype, `T` in the body.
    pub(crate) dtype: Dtype,
    /// Dynamic shared memory of a block.
    pub(crate) shared_bytes: usize,
    /// Calls the template.
    pub(crate) body: String,
}

impl Kernels {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { header: super::embedded::header(), made: RefCell::default() }
    }

    /// Launches the kernel `name`, made by `instance` where this is the first time, on arrays for outputs of these
    /// shapes and dtypes.
    pub(crate) fn launch<'a>(
        &self,
        name: &str,
        instance: impl FnOnce() -> Instance<'a>,
        (inputs, outputs): (&[&Array], &[(&[i32], Dtype)]),
        launch: Launch,
    ) -> Result<Vec<Array>> {
        self.kernel(name, instance)?.launch(inputs, outputs, launch)
    }

    /// As `launch`, for a kernel of one output.
    pub(crate) fn launch_one<'a>(
        &self,
        name: &str,
        instance: impl FnOnce() -> Instance<'a>,
        (inputs, output): (&[&Array], (&[i32], Dtype)),
        launch: Launch,
    ) -> Result<Array> {
        let mut made = self.launch(name, instance, (inputs, &[output]), launch)?;
        made.pop().ok_or_else(|| defect("a kernel of one output returned none"))
    }

    fn kernel<'a>(&self, name: &str, instance: impl FnOnce() -> Instance<'a>) -> Result<Rc<Kernel>> {
        if let Some(kernel) = self.made.borrow().get(name) {
            return Ok(Rc::clone(kernel));
        }
        let instance = instance();
        let body = format!("using T = {};\n{}", element(instance.dtype)?, instance.body);
        let kernel = Rc::new(Kernel::new(&KernelSource {
            name: &instance.name,
            header: &self.header,
            body: &body,
            inputs: instance.inputs,
            outputs: instance.outputs,
            shared_bytes: u32::try_from(instance.shared_bytes).unwrap_or(u32::MAX),
        })?);
        self.made.borrow_mut().insert(name.to_owned(), Rc::clone(&kernel));
        Ok(kernel)
    }
}

/// Whether kernels exist for activations of this dtype.
pub(crate) fn is_supported(dtype: Dtype) -> bool {
    element(dtype).is_ok()
}

/// A float as CUDA source that means exactly it.
pub(crate) fn float(value: f32) -> String {
    format!("__uint_as_float({:#010x}u)", value.to_bits())
}

/// A short name for a dtype, as part of a kernel's.
pub(crate) fn tag(dtype: Dtype) -> &'static str {
    if dtype == Dtype::Float16 { "f16" } else { "bf16" }
}

pub(super) fn defect(message: &str) -> Error {
    Error { op: "cuda_kernel", kind: ErrorKind::Other, operands: String::new(), message: message.to_owned() }
}

fn element(dtype: Dtype) -> Result<&'static str> {
    match dtype {
        Dtype::Bfloat16 => Ok("__nv_bfloat16"),
        Dtype::Float16 => Ok("__half"),
        other => Err(Error {
            op: "cuda_kernel",
            kind: ErrorKind::Argument,
            operands: String::new(),
            message: format!("activations must be bfloat16 or float16, got {other}"),
        }),
    }
}
