//! The loader of real models: MLX on the device the worker was given.
//!
//! Translates only; what a file must hold and whether it fits, the engine decides.

use std::path::Path;

use mlxcel_engine::replica::{Follower, JoinError, OnFailure, ReplicaOptions};
use mlxcel_engine::{
    Device, DeviceChoice, DeviceError, DeviceFamily, Engine, LoadError as EngineLoadError, LoadOptions,
    LoadStep, Speed, load_leader,
};
use mlxcel_protocol::v1::{self, DeviceKind};
use tracing::warn;

use super::loader::{DeviceDescription, EngineLoader, Joined, LoadError};

/// Loads models on one device with MLX.
#[derive(Debug)]
pub struct MlxLoader {
    device: Device,
    memory_bytes: Option<u64>,
    speed: Option<Speed>,
}

impl MlxLoader {
    /// A loader for the device a choice means on this host, of whose memory it uses at most `memory_bytes`. Measures
    /// the device.
    ///
    /// # Errors
    /// The device is not there or cannot be used.
    pub fn new(choice: DeviceChoice, memory_bytes: Option<u64>) -> Result<Self, DeviceError> {
        let device = Device::choose(choice)?;
        // A device that cannot be measured can still serve whole models.
        let speed = device.speed().inspect_err(|error| warn!(%error, "the device cannot be measured")).ok();
        Ok(Self { device, memory_bytes, speed })
    }

    fn limited(&self, options: LoadOptions) -> LoadOptions {
        LoadOptions { memory_bytes: self.memory_bytes, ..options }
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
            memory_bytes: self.memory_bytes.map_or(info.memory_bytes, |most| most.min(info.memory_bytes)),
            driver: info.driver,
            bandwidth_bytes_per_second: self.speed.map_or(0.0, |speed| speed.bandwidth),
            operations_per_second: self.speed.map_or(0.0, |speed| speed.operations),
        };
        DeviceDescription { device, mlx_version: info.mlx_version }
    }

    fn load(
        &mut self,
        path: &Path,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Box<dyn Engine>, LoadError> {
        mlxcel_engine::load(path, &self.limited(options), progress).map_err(why)
    }

    fn join(
        &mut self,
        path: &Path,
        options: LoadOptions,
        (replica, on_failure): (ReplicaOptions, OnFailure),
        progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Joined, LoadError> {
        if replica.rank == replica.layout.leader() {
            let engine = load_leader(path, &options, replica, on_failure, progress);
            return engine.map(Joined::Leader).map_err(why);
        }
        let follower = Follower::start(path, &options, replica, on_failure, progress);
        follower.map(Joined::Follower).map_err(why)
    }
}

fn why(error: EngineLoadError) -> LoadError {
    let message = error.to_string();
    match error {
        EngineLoadError::Checkpoint(_)
        | EngineLoadError::Family { .. }
        | EngineLoadError::Weight(_)
        | EngineLoadError::Text(_)
        | EngineLoadError::Context { .. }
        | EngineLoadError::Draft { .. }
        | EngineLoadError::Stateful { .. } => LoadError::Invalid(message),
        EngineLoadError::Memory { .. } => LoadError::OutOfMemory(message),
        EngineLoadError::Join(JoinError::Unsupported(_)) => LoadError::Invalid(message),
        EngineLoadError::Join(_) => LoadError::RankLost(message),
        EngineLoadError::Device(_) | EngineLoadError::Mlx(_) | EngineLoadError::Thread(_) => {
            LoadError::Internal(message)
        }
    }
}
