//! Devices, their properties, and their streams.
//!
//! The default device is the process's, as in MLX; default streams are each thread's own.

mod cpu_build;
#[cfg(feature = "cuda")]
mod nvidia;

pub use cpu_build::cpu_library;

use std::marker::PhantomData;

use crate::error::{Error, Result};
use crate::ffi::mlx as ffi;

/// Where work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// CPU or GPU.
    pub kind: DeviceKind,
    /// Which of its kind, from 0.
    pub index: i32,
}

/// Kinds of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The host's processor.
    Cpu,
    /// A GPU of the backend MLX was built with.
    Gpu,
}

/// What MLX says of a device; fields its backend does not report are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceInfo {
    /// Such as `NVIDIA H200` or `Apple M4 Max`.
    pub name: Option<String>,
    /// Such as `sm_90` or `applegpu_g16s`.
    pub architecture: Option<String>,
    /// Memory of the device, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory free when asked, in bytes.
    pub free_bytes: Option<u64>,
    /// Everything reported, by MLX's own keys, sorted; of an NVIDIA GPU also `driver_version`
    /// (such as `580.95.05`) and `cuda_version` (the newest the driver serves, such as `13.0`).
    pub properties: Vec<(String, String)>,
}

impl Device {
    /// The host's processor.
    pub const CPU: Self = Self { kind: DeviceKind::Cpu, index: 0 };

    /// The GPU with this index.
    pub fn gpu(index: i32) -> Self {
        Self { kind: DeviceKind::Gpu, index }
    }

    /// Whether this device can be used in this build, on this host.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn is_available(self) -> Result<bool> {
        ffi::device_available(self.is_gpu(), self.index).map_err(|e| failed("is_available", &e))
    }

    /// How many devices of a kind there are.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn count(kind: DeviceKind) -> Result<i32> {
        ffi::device_count(kind == DeviceKind::Gpu).map_err(|e| failed("device_count", &e))
    }

    /// Name, memory and architecture.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn info(self) -> Result<DeviceInfo> {
        let found = ffi::device_info(self.is_gpu(), self.index).map_err(|e| failed("device_info", &e))?;
        let mut info = DeviceInfo::default();
        for property in found {
            let number = property.is_number.then_some(property.number as u64);
            match property.name.as_str() {
                "device_name" => info.name = Some(property.text.clone()),
                "architecture" => info.architecture = Some(property.text.clone()),
                "total_memory" | "memory_size" => info.memory_bytes = number,
                "free_memory" => info.free_bytes = number,
                _ => {}
            }
            info.properties.push((property.name, number.map_or(property.text, |number| number.to_string())));
        }
        #[cfg(feature = "cuda")]
        if self.is_gpu() {
            info.properties.extend(nvidia::versions());
        }
        info.properties.sort();
        Ok(info)
    }

    fn is_gpu(self) -> bool {
        self.kind == DeviceKind::Gpu
    }
}

/// The device operations run on where nothing else is said.
///
/// # Errors
/// When the backend fails.
pub fn default_device() -> Result<Device> {
    let gpu = ffi::device_is_gpu().map_err(|e| failed("default_device", &e))?;
    let index = ffi::device_index().map_err(|e| failed("default_device", &e))?;
    Ok(Device { kind: if gpu { DeviceKind::Gpu } else { DeviceKind::Cpu }, index })
}

/// Sets the default device, for the whole process.
///
/// # Errors
/// When there is no such device.
pub fn set_default_device(device: Device) -> Result<()> {
    ffi::device_set(device.is_gpu(), device.index).map_err(|e| failed("set_default_device", &e))
}

/// MLX's version, such as `0.32.4`.
pub fn version() -> String {
    ffi::version()
}

/// A queue of work on a device, for the thread that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    device: Device,
    index: i32,
    // A stream works only on its own thread.
    confined: PhantomData<*const ()>,
}

impl Stream {
    /// A new stream.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn new(device: Device) -> Result<Self> {
        let index = ffi::stream_new(device.is_gpu(), device.index).map_err(|e| failed("new_stream", &e))?;
        Ok(Self { device, index, confined: PhantomData })
    }

    /// This thread's default stream on `device`.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn default_of(device: Device) -> Result<Self> {
        let index =
            ffi::stream_default(device.is_gpu(), device.index).map_err(|e| failed("default_stream", &e))?;
        Ok(Self { device, index, confined: PhantomData })
    }

    /// The device it runs on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Makes it this thread's default for its device.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn make_default(&self) -> Result<()> {
        let device = self.device;
        let set = ffi::stream_set_default(device.is_gpu(), device.index, self.index);
        set.map_err(|e| failed("set_default_stream", &e))
    }

    /// Waits for its work.
    ///
    /// # Errors
    /// With a failure of that work that no one has been told of yet.
    pub fn synchronize(&self) -> Result<()> {
        let done = ffi::stream_synchronize(self.device.is_gpu(), self.device.index, self.index);
        done.map_err(|e| failed("synchronize", &e))
    }
}

fn failed(op: &'static str, exception: &cxx::Exception) -> Error {
    Error::from_exception(op, &[], exception)
}
