//! Loading models, one after the other, on a thread of its own.
//!
//! Knows nothing of requests: `host` decides what to load and who learns of it. A loader that
//! panics fails its load, not the worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use mlxcel_engine::replica::{Follower, OnFailure, ReplicaOptions};
use mlxcel_engine::{Engine, LoadOptions, LoadStep};
use mlxcel_protocol::v1::{self, FailureKind, WorkerEvent, WorkerLoadProgress, worker_event};

use super::host::Input;
use super::meeting::Meeting;
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

    /// Loads this device's part of the model at `path` and meets the other ranks of its replica. The second of
    /// `replica` is told, once, when the replica ends before what is returned is dropped. Loaders of whole models have none of this.
    ///
    /// # Errors
    /// As [`load`](Self::load); and when the ranks do not find together.
    fn join(
        &mut self,
        _path: &Path,
        _options: LoadOptions,
        _replica: (ReplicaOptions, OnFailure),
        _progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Joined, LoadError> {
        Err(LoadError::Invalid("this worker loads whole models only".to_owned()))
    }
}

/// What a device is in a replica.
pub enum Joined {
    /// The rank that leads: the replica's engine.
    Leader(Box<dyn Engine>),
    /// One of the others.
    Follower(Follower),
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
    /// Another rank of the replica did not come, or was lost.
    #[error("{0}")]
    RankLost(String),
    /// The engine itself failed.
    #[error("{0}")]
    Internal(String),
}

impl LoadError {
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Invalid(_) => FailureKind::InvalidRequest,
            Self::OutOfMemory(_) => FailureKind::Overloaded,
            Self::RankLost(_) => FailureKind::WorkerLost,
            Self::Internal(_) => FailureKind::Internal,
        }
    }
}

/// One model to load, or the part of one.
pub(super) struct Job {
    pub(super) served_name: String,
    /// Tells this load from an earlier one of the same name.
    pub(super) ticket: u64,
    pub(super) path: PathBuf,
    pub(super) options: LoadOptions,
    /// Of a part: whom to meet before it is loaded.
    pub(super) meeting: Option<Meeting>,
}

/// What a job has loaded.
pub(super) enum Loaded {
    Whole(Box<dyn Engine>),
    Part(Joined),
}

/// Starts the loading thread; it ends when the sender is dropped.
pub(super) fn start(
    mut loader: Box<dyn EngineLoader>,
    outbox: Outbox,
    inputs: mpsc::Sender<Input>,
) -> mpsc::Sender<Job> {
    let (jobs, queue) = mpsc::channel::<Job>();
    thread::spawn(move || {
        for job in queue {
            let (served_name, ticket) = (job.served_name.clone(), job.ticket);
            let shown = job.path.display().to_string();
            let result = catch_unwind(AssertUnwindSafe(|| run(&mut *loader, job, &outbox, &inputs)))
                .unwrap_or_else(|_| Err(LoadError::Internal(format!("loading {shown} panicked"))));
            if inputs.send(Input::Loaded { served_name, ticket, result }).is_err() {
                return;
            }
        }
    });
    jobs
}

fn run(
    loader: &mut dyn EngineLoader,
    job: Job,
    outbox: &Outbox,
    inputs: &mpsc::Sender<Input>,
) -> Result<Loaded, LoadError> {
    let Job { served_name, ticket, path, options, meeting } = job;
    let name = served_name.clone();
    let mut progress = |step| outbox.push(load_event(&name, wire::load_step(step)));
    let Some(meeting) = meeting else {
        return loader.load(&path, options, &mut progress).map(Loaded::Whole);
    };
    let replica = meeting.meet().map_err(LoadError::RankLost)?;
    let inputs = inputs.clone();
    let on_failure = Box::new(move |reason| {
        // Fails only when the worker has already ended.
        let _ = inputs.send(Input::RankLost { served_name, ticket, reason });
    });
    loader.join(&path, options, (replica, on_failure), &mut progress).map(Loaded::Part)
}

pub(super) fn load_event(served_name: &str, progress: v1::LoadProgress) -> WorkerEvent {
    let load = WorkerLoadProgress { served_name: served_name.into(), progress: Some(progress) };
    WorkerEvent { kind: Some(worker_event::Kind::Load(load)) }
}
