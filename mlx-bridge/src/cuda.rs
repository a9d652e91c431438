//! Kernels given as CUDA source, compiled at run time by MLX and launched as nodes of its graph.
//!
//! MLX generates the signature from the arrays: an input or output `x` is a pointer `x`, and where the
//! body names `x_shape` the sizes of its dimensions are passed too. It compiles (NVRTC, cached on
//! disk) when the first launch is evaluated, so a fault of the source surfaces there. In a build or on a
//! host without CUDA every kernel is refused with an error.

use cxx::UniquePtr;

use crate::array::{Array, pointers, returned_list};
use crate::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::ffi::mlx as ffi;

/// What a kernel is made from.
#[derive(Debug, Clone, Copy)]
pub struct KernelSource<'a> {
    /// Names the kernel in errors and profiles: letters, digits and underscores.
    pub name: &'a str,
    /// Text before the kernel, such as the functions it calls.
    pub header: &'a str,
    /// The kernel's body.
    pub body: &'a str,
    /// Names of the inputs, in order.
    pub inputs: &'a [&'a str],
    /// Names of the outputs, in order; at least one.
    pub outputs: &'a [&'a str],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

/// One launch.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    /// Blocks in each dimension.
    pub grid: [u32; 3],
    /// Threads of a block in each dimension.
    pub block: [u32; 3],
    /// What the outputs hold when the kernel begins; arbitrary contents otherwise.
    pub fill: Option<f32>,
}

impl Launch {
    /// A one-dimensional grid.
    pub fn linear(blocks: usize, threads: u32) -> Self {
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], fill: None }
    }
}

/// A kernel that can be launched on arrays of any shape its body can tell.
pub struct Kernel {
    handle: UniquePtr<ffi::CudaKernel>,
    inputs: usize,
    outputs: usize,
}

impl Kernel {
    /// Makes a kernel; nothing is compiled yet.
    ///
    /// # Errors
    /// When it has no output, or this build of MLX has no CUDA.
    pub fn new(source: &KernelSource<'_>) -> Result<Self> {
        const OP: &str = "cuda_kernel";
        if source.outputs.is_empty() {
            return Err(Error::argument(OP, "a kernel must have an output"));
        }
        let shared_bytes = i32::try_from(source.shared_bytes).map_err(|_| {
            Error::argument(OP, format!("{} bytes of shared memory are too many", source.shared_bytes))
        })?;
        let text =
            ffi::CudaSource { name: source.name, header: source.header, body: source.body, shared_bytes };
        let handle = ffi::cuda_kernel(&text, source.inputs, source.outputs)
            .map_err(|error| Error::from_exception(OP, &[], &error))?;
        if handle.is_null() {
            return Err(Error::new(OP, ErrorKind::Other, &[], "MLX returned no kernel"));
        }
        Ok(Self { handle, inputs: source.inputs.len(), outputs: source.outputs.len() })
    }

    /// A node that launches the kernel on `inputs`, which reach it row-contiguous, on the default
    /// stream of the default device, which must be a GPU.
    ///
    /// # Errors
    /// When the counts of inputs or outputs are not the source's, a size is negative, the launch is
    /// empty or too large, or the default device is not a GPU.
    pub fn launch(
        &self,
        inputs: &[&Array],
        outputs: &[(&[i32], Dtype)],
        launch: Launch,
    ) -> Result<Vec<Array>> {
        const OP: &str = "cuda_launch";
        let refused = |message: String| Error::new(OP, ErrorKind::Argument, inputs, message);
        if inputs.len() != self.inputs || outputs.len() != self.outputs {
            return Err(refused(format!(
                "the kernel takes {} inputs and {} outputs, got {} and {}",
                self.inputs,
                self.outputs,
                inputs.len(),
                outputs.len()
            )));
        }
        if let Some((shape, _)) = outputs.iter().find(|(shape, _)| shape.iter().any(|&size| size < 0)) {
            return Err(refused(format!("output sizes must not be negative, got {shape:?}")));
        }
        let launch = numbers(launch).ok_or_else(|| {
            refused(format!(
                "grid {:?} of blocks {:?} must not be empty or beyond i32",
                launch.grid, launch.block
            ))
        })?;
        let shapes: Vec<i32> = outputs.iter().flat_map(|(shape, _)| shape.iter().copied()).collect();
        let ranks: Vec<u8> = outputs.iter().map(|(shape, _)| shape.len() as u8).collect();
        let dtypes: Vec<u8> = outputs.iter().map(|(_, dtype)| dtype.code()).collect();
        let made = ffi::cuda_launch(&self.handle, &pointers(inputs), &shapes, &ranks, &dtypes, &launch);
        returned_list(OP, inputs, made)
    }
}

/// MLX takes threads where CUDA takes blocks.
fn numbers(launch: Launch) -> Option<ffi::CudaLaunch> {
    let mut threads = [0; 3];
    let mut block = [0; 3];
    for axis in 0..3 {
        let all = launch.grid[axis].checked_mul(launch.block[axis]).filter(|&all| all > 0)?;
        threads[axis] = i32::try_from(all).ok()?;
        block[axis] = i32::try_from(launch.block[axis]).ok()?;
    }
    Some(ffi::CudaLaunch {
        threads,
        block,
        has_fill: launch.fill.is_some(),
        fill: launch.fill.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_counts_threads_and_refuses_none_and_too_many() {
        let launch = Launch { grid: [3, 2, 1], block: [64, 1, 1], fill: None };
        assert_eq!(numbers(launch).map(|launch| launch.threads), Some([192, 2, 1]));
        assert!(numbers(Launch { grid: [0, 1, 1], ..launch }).is_none());
        assert!(numbers(Launch { grid: [1 << 30, 1, 1], ..launch }).is_none());
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_build_without_cuda_refuses_kernels() {
        let source = KernelSource {
            name: "nothing",
            header: "",
            body: "out[0] = x[0];",
            inputs: &["x"],
            outputs: &["out"],
            shared_bytes: 0,
        };
        let error = Kernel::new(&source).err().map(|error| error.kind);
        assert_eq!(error, Some(ErrorKind::Device));
    }
}
