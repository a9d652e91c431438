//! The loader of real models: MLX on the device the worker was given.
//!
//! Translates only; what a file must hold and whether it fits, the engine decides.

use std::path::Path;

use mlxcel_engine::{
    Device, DeviceChoice, DeviceError, DeviceFamily, Engine, LoadError as EngineLoadError, LoadOptions,
    LoadStep,
};
use mlxcel_protocol::v1::{self, DeviceKind};

use super::loader::{DeviceDescription, EngineLoader, LoadError};

/// Loads models on one device with MLX.
#[derive(Debug)]
pub struct MlxLoader {
    device: Device,
}

impl MlxLoader {
    /// A loader for the device a choice means on this host.
    ///
    /// # Errors
    /// The device is not there or cannot be used.
    pub fn new(choice: DeviceChoice) -> Result<Self, DeviceError> {
        Ok(Self { device: Device::choose(choice)? })
    }
}

impl EngineLoader for MlxLoader {
    fn device(&self) -> DeviceDescription {
        let info = self.device.info();
        let kind = match info.kind {
            DeviceFamily::Cpu => DeviceKind::Cpu,
            DeviceFamily::Cuda => DeviceKind::Cuda,
            DeviceFamily::Metal => DeviceKind::Metal,
        };
        let device = v1::Device {
            index: info.index,
            kind: kind.into(),
            name: info.name,
            memory_bytes: info.memory_bytes,
            driver: info.driver,
        };
        DeviceDescription { device, mlx_version: info.mlx_version }
    }

    fn load(
        &mut self,
        path: &Path,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Box<dyn Engine>, LoadError> {
        mlxcel_engine::load(path, &options, progress).map_err(|error| {
            let message = error.to_string();
            match error {
                EngineLoadError::Checkpoint(_)
                | EngineLoadError::Family { .. }
                | EngineLoadError::Weight(_)
                | EngineLoadError::Text(_)
                | EngineLoadError::Context { .. }
                | EngineLoadError::Draft { .. } => LoadError::Invalid(message),
                EngineLoadError::Device(_) | EngineLoadError::Mlx(_) | EngineLoadError::Thread(_) => {
                    LoadError::Internal(message)
                }
            }
        })
    }
}
