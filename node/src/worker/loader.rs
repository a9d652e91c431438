//! Loading models, one after the other, on a thread of its own.
//!
//! Knows nothing of requests: `host` decides what to load and who learns of it. A loader that
//! panics fails its load, not the worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use mlxcel_engine::{Engine, LoadOptions, LoadStep};
use mlxcel_protocol::v1::{self, FailureKind, WorkerEvent, WorkerLoadProgress, worker_event};

use super::host::Input;
use super::outbox::Outbox;
use crate::wire;

/// Makes engines from model files on one device.
pub trait EngineLoader: Send + 'static {
    /// The device engines will run on.
    fn device(&self) -> DeviceDescription;

    /// Loads the model at `path`: a directory, or one GGUF file. May take minutes; reports what it
    /// does through `progress`, as often as it likes.
    ///
    /// # Errors
    /// [`LoadError`], whose text names the file and the mend.
    fn load(
        &mut self,
        path: &Path,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Box<dyn Engine>, LoadError>;
}

/// What a worker says of its device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeviceDescription {
    /// The device; its index is the worker's to fill in.
    pub device: v1::Device,
    /// The version of MLX that runs, empty for an engine without it.
    pub mlx_version: String,
}

/// Why a model could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The files or the options are wrong, and would be on any device.
    #[error("{0}")]
    Invalid(String),
    /// The model does not fit beside what is loaded now.
    #[error("{0}")]
    OutOfMemory(String),
    /// The engine itself failed.
    #[error("{0}")]
    Internal(String),
}

impl LoadError {
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Invalid(_) => FailureKind::InvalidRequest,
            Self::OutOfMemory(_) => FailureKind::Overloaded,
            Self::Internal(_) => FailureKind::Internal,
        }
    }
}

/// One model to load.
pub(super) struct Job {
    pub(super) served_name: String,
    /// Tells this load from an earlier one of the same name.
    pub(super) ticket: u64,
    pub(super) path: PathBuf,
    pub(super) options: LoadOptions,
}

/// Starts the loading thread; it ends when the sender is dropped.
pub(super) fn start(
    mut loader: Box<dyn EngineLoader>,
    outbox: Outbox,
    inputs: mpsc::Sender<Input>,
) -> mpsc::Sender<Job> {
    let (jobs, queue) = mpsc::channel::<Job>();
    thread::spawn(move || {
        for Job { served_name, ticket, path, options } in queue {
            let name = served_name.clone();
            let outbox = outbox.clone();
            let mut progress = move |step| outbox.push(load_event(&name, wire::load_step(step)));
            let result = catch_unwind(AssertUnwindSafe(|| loader.load(&path, options, &mut progress)))
                .unwrap_or_else(|_| Err(LoadError::Internal(format!("loading {} panicked", path.display()))));
            if inputs.send(Input::Loaded { served_name, ticket, result }).is_err() {
                return;
            }
        }
    });
    jobs
}

pub(super) fn load_event(served_name: &str, progress: v1::LoadProgress) -> WorkerEvent {
    let load = WorkerLoadProgress { served_name: served_name.into(), progress: Some(progress) };
    WorkerEvent { kind: Some(worker_event::Kind::Load(load)) }
}
