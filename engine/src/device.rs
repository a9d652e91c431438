//! The device an engine runs on: choosing it, and saying what it is.
//!
//! A GPU build whose GPU cannot be used says why and stops; it runs on the CPU only when asked.

use mlxcel_mlx_bridge::{self as mlx, DeviceKind};

use crate::api::DeviceChoice;
use crate::decoder::Execution;

/// Whether this build of MLX drives GPUs.
const GPU_BUILD: bool = cfg!(any(feature = "cuda", feature = "metal", target_os = "macos"));

/// Why the chosen device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A GPU was asked for in a CPU build.
    #[error(
        "this build of mlxcel has no GPU support; use a build with the cuda or metal feature, or --device cpu"
    )]
    CpuBuild,
    /// The build supports GPUs, but none can be used.
    #[error("the GPU cannot be used: {0}; mend that, or run on the CPU with --device cpu")]
    Unusable(String),
    /// The GPU build cannot even use the CPU without the GPU's driver.
    #[error(
        "this GPU build of mlxcel needs a working GPU driver even for --device cpu: {0}; put the CPU build of MLX in ../lib/cpu beside the program, or use a CPU build of mlxcel on this host"
    )]
    NoDriver(String),
    /// There is no GPU of that index.
    #[error("there is no GPU {index}; this host has {count}, counted from 0")]
    NoSuchGpu {
        /// The index asked for.
        index: u32,
        /// How many there are.
        count: u32,
    },
}

/// What kind of device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceFamily {
    /// The host's processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An Apple GPU.
    Metal,
}

/// A device, for people and for a node's registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What kind of device it is.
    pub kind: DeviceFamily,
    /// Index among the devices of its kind.
    pub index: u32,
    /// Its name, such as "NVIDIA H200".
    pub name: String,
    /// Its memory in bytes; for a CPU, the host's.
    pub memory_bytes: u64,
    /// Driver and compute versions; empty for a CPU.
    pub driver: String,
    /// Version of the MLX library.
    pub mlx_version: String,
}

/// A device that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    inner: mlx::Device,
}

impl Device {
    /// The device a choice means in this build on this host.
    ///
    /// # Errors
    /// When it is a GPU that this build or host does not have.
    pub fn choose(choice: DeviceChoice) -> Result<Self, DeviceError> {
        match choice {
            DeviceChoice::Cpu => match allocation_failure().filter(|_| GPU_BUILD) {
                None => Ok(Self { inner: mlx::Device::CPU }),
                Some(cause) => Err(DeviceError::NoDriver(cause)),
            },
            DeviceChoice::Default if !GPU_BUILD => Ok(Self { inner: mlx::Device::CPU }),
            DeviceChoice::Gpu(_) if !GPU_BUILD => Err(DeviceError::CpuBuild),
            DeviceChoice::Default => Self::gpu(0),
            DeviceChoice::Gpu(index) => Self::gpu(index),
        }
    }

    /// How many devices this build can use on this host: its GPUs in a GPU build, else one CPU.
    ///
    /// # Errors
    /// When a GPU build finds no usable GPU.
    pub fn count() -> Result<u32, DeviceError> {
        if !GPU_BUILD {
            return Ok(1);
        }
        let unusable = |error: mlx::Error| DeviceError::Unusable(error.message);
        let count = mlx::Device::count(DeviceKind::Gpu).map_err(unusable)?;
        let count = u32::try_from(count).unwrap_or(0);
        if count == 0 || !mlx::Device::gpu(0).is_available().map_err(unusable)? {
            let cause = allocation_failure().unwrap_or_else(|| "none is visible to this process".to_owned());
            return Err(DeviceError::Unusable(cause));
        }
        Ok(count)
    }

    /// What the device is.
    pub fn info(&self) -> DeviceInfo {
        // A device that cannot describe itself is still named by its kind.
        let described = self.inner.info().unwrap_or_default();
        DeviceInfo {
            kind: match (self.is_gpu(), cfg!(target_os = "macos")) {
                (false, _) => DeviceFamily::Cpu,
                (true, false) => DeviceFamily::Cuda,
                (true, true) => DeviceFamily::Metal,
            },
            index: u32::try_from(self.inner.index).unwrap_or(0),
            name: described.name.unwrap_or_else(|| if self.is_gpu() { "GPU" } else { "CPU" }.to_owned()),
            memory_bytes: described.memory_bytes.unwrap_or_else(host_memory_bytes),
            driver: driver(&described.properties),
            mlx_version: mlx::version(),
        }
    }

    pub(crate) fn execution(&self) -> Execution {
        if !self.is_gpu() {
            return Execution::Host;
        }
        let architecture = self.inner.info().ok().and_then(|info| info.architecture).unwrap_or_default();
        if runs_our_kernels(&architecture) { Execution::Cuda } else { Execution::Graph }
    }

    /// Whether it is a GPU, which computes far more tokens in one step than it can read weights for.
    pub(crate) fn has_wide_steps(&self) -> bool {
        self.is_gpu()
    }

    /// Makes arrays of the calling thread live on this device.
    pub(crate) fn make_default(&self) -> mlx::Result<()> {
        mlx::set_default_device(self.inner)
    }

    fn is_gpu(&self) -> bool {
        self.inner.kind == DeviceKind::Gpu
    }

    fn gpu(index: u32) -> Result<Self, DeviceError> {
        match Self::count()? {
            count if index < count => Ok(Self { inner: mlx::Device::gpu(index as i32) }),
            count => Err(DeviceError::NoSuchGpu { index, count }),
        }
    }
}

/// Whether a device of this architecture, such as `sm_90`, has the tensor-core products our CUDA kernels are
/// made of: those of compute capability 8.0 and later.
fn runs_our_kernels(architecture: &str) -> bool {
    let capability = architecture.strip_prefix("sm_").and_then(|digits| digits.parse::<u32>().ok());
    cfg!(feature = "cuda") && capability.is_some_and(|capability| capability >= 80)
}

/// The memory of this host, which MLX does not report for a CPU.
fn host_memory_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    system.total_memory()
}

/// What the backend says of its driver, for people.
fn driver(properties: &[(String, String)]) -> String {
    let named = [("driver_version", "driver"), ("cuda_version", "CUDA")];
    let known = named.iter().filter_map(|(key, label)| {
        let (_, value) = properties.iter().find(|(name, _)| name == key)?;
        Some(format!("{label} {value}"))
    });
    known.collect::<Vec<_>>().join(", ")
}

/// The CPU build of MLX with which this program must be started again to run on the CPU: there is one
/// where a GPU build finds no usable driver, which it needs even for arrays of the CPU.
pub fn library_for_cpu() -> Option<std::path::PathBuf> {
    allocation_failure().filter(|_| GPU_BUILD).and_then(|_| mlx::cpu_library())
}

/// Why no array can be made, in the backend's words; the CUDA build makes even arrays of the CPU
/// through the GPU's driver.
fn allocation_failure() -> Option<String> {
    let tried = mlx::Array::from_slice(&[0.0f32], &[1]).and_then(|array| array.to_vec::<f32>());
    tried.err().map(|error| error.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_run_on_recent_nvidia_devices_of_cuda_builds_alone() {
        assert_eq!(runs_our_kernels("sm_90"), cfg!(feature = "cuda"));
        assert_eq!(runs_our_kernels("sm_120"), cfg!(feature = "cuda"));
        assert!(!runs_our_kernels("sm_75"));
        assert!(!runs_our_kernels("applegpu_g16s"));
        assert!(!runs_our_kernels(""));
    }
}
