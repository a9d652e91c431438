//! Models on their way into this node: files first, then every worker.
//!
//! Concurrent loads of one model share one run and see the same progress. Knows nothing of
//! requests on models; `supervisor` loads them again after a crash.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use mlxcel_model_store::{Event, ModelRef, Progress, ResolveError, Store};
use mlxcel_protocol::v1::{
    Draft, FailureKind, LoadModelRequest, LoadProgress, LoadStep, WorkerLoad, load_progress,
};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::events::EventStream;
use crate::supervisor::Slot;
use crate::wire;

pub(crate) struct Models {
    store: Arc<Store>,
    slots: Arc<[Slot]>,
    entries: Mutex<Entries>,
    stopping: CancellationToken,
}

#[derive(Default)]
struct Entries {
    by_name: BTreeMap<String, Entry>,
    next_ticket: u64,
}

/// A model that is loaded or being loaded.
struct Entry {
    ticket: u64,
    request: LoadModelRequest,
    /// Where its files are, once that is known.
    path: Option<PathBuf>,
    progress: watch::Receiver<LoadProgress>,
    cancelled: CancellationToken,
}

/// One run of a load.
struct Run {
    ticket: u64,
    request: LoadModelRequest,
    path: Option<PathBuf>,
    progress: watch::Sender<LoadProgress>,
    cancelled: CancellationToken,
}

impl Models {
    pub(crate) fn new(store: Store, slots: Arc<[Slot]>) -> Self {
        Self { store: Arc::new(store), slots, entries: Mutex::default(), stopping: CancellationToken::new() }
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    pub(crate) const fn slots(&self) -> &Arc<[Slot]> {
        &self.slots
    }

    /// Loads a model on every worker. The stream ends with one `ready` (at least one worker has
    /// it) or `failed`; the load goes on when the stream is dropped.
    pub(crate) fn load(self: &Arc<Self>, mut request: LoadModelRequest) -> BoxStream<'static, LoadProgress> {
        if request.served_name.is_empty() {
            request.served_name.clone_from(&request.model);
        }
        let name = request.served_name.clone();
        let mut entries = self.lock();
        let known = entries.by_name.get(&name);
        if let Some(entry) = known.filter(|entry| entry.request != request) {
            let message =
                format!("{name} is loaded from {} with other options; unload it first", entry.request.model);
            return once(wire::load_failed(FailureKind::InvalidRequest, message));
        }
        if let Some(entry) = known.filter(|entry| !ended(&entry.progress.borrow())) {
            return WatchStream::new(entry.progress.clone()).boxed();
        }
        let path = known.and_then(|entry| entry.path.clone());
        let ticket = entries.next_ticket;
        entries.next_ticket += 1;
        let first = LoadStep { what: format!("looking for {}", request.model), ..LoadStep::default() };
        let (progress, shown) = watch::channel(LoadProgress { kind: Some(load_progress::Kind::Step(first)) });
        let cancelled = self.stopping.child_token();
        let entry = Entry {
            ticket,
            request: request.clone(),
            path: path.clone(),
            progress: shown.clone(),
            cancelled: cancelled.clone(),
        };
        entries.by_name.insert(name, entry);
        drop(entries);
        let run = Run { ticket, request, path, progress, cancelled };
        tokio::spawn(Arc::clone(self).run(run));
        WatchStream::new(shown).boxed()
    }

    /// Whether the model was loaded or being loaded.
    pub(crate) async fn unload(&self, name: &str) -> bool {
        let entry = self.lock().by_name.remove(name);
        if let Some(entry) = &entry {
            entry.cancelled.cancel();
        }
        let mut known = entry.is_some();
        for slot in self.slots.iter() {
            known |= slot.unload(name).await;
        }
        known
    }

    /// Ends every load under way.
    pub(crate) fn stop(&self) {
        self.stopping.cancel();
    }

    async fn run(self: Arc<Self>, mut run: Run) {
        let name = run.request.served_name.clone();
        let cancelled = run.cancelled.clone();
        let outcome = tokio::select! {
            outcome = self.load_everywhere(&mut run) => outcome,
            () = self.stopping.cancelled() => wire::load_failed(FailureKind::Draining, ENDING),
            () = cancelled.cancelled() => {
                let message = format!("{name} was unloaded while it was loading");
                wire::load_failed(FailureKind::ModelNotFound, message)
            }
        };
        {
            let mut entries = self.lock();
            let own = entries.by_name.get_mut(&name).filter(|entry| entry.ticket == run.ticket);
            match (&outcome.kind, own) {
                (Some(load_progress::Kind::Failed(failure)), own) => {
                    error!(model = name, "cannot load model: {}", failure.message);
                    if own.is_some() {
                        entries.by_name.remove(&name);
                    }
                }
                (_, Some(entry)) => entry.path = run.path,
                (_, None) => {}
            }
        }
        run.progress.send_replace(outcome);
    }

    async fn load_everywhere(&self, run: &mut Run) -> LoadProgress {
        let load = match self.described(run).await {
            Ok(load) => load,
            Err((kind, message)) => return wire::load_failed(kind, message),
        };
        let Some(streams) = self.load_on_slots(run.ticket, &load) else {
            let message = format!("{} was unloaded while it was loading", load.served_name);
            return wire::load_failed(FailureKind::ModelNotFound, message);
        };
        let mut progress = stream::select_all(streams);
        let (mut ready, mut failed) = (None, None);
        while let Some(step) = progress.next().await {
            match step.kind {
                Some(load_progress::Kind::Ready(_)) => ready = Some(step),
                Some(load_progress::Kind::Failed(_)) => failed = failed.or(Some(step)),
                _ => _ = run.progress.send_replace(step),
            }
        }
        let ending = || wire::load_failed(FailureKind::Draining, ENDING);
        ready.or(failed).unwrap_or_else(ending)
    }

    /// What workers are told to load, once the model's files are there.
    ///
    /// # Errors
    /// Why they are not.
    pub(crate) async fn worker_load(
        &self,
        mut request: LoadModelRequest,
    ) -> Result<WorkerLoad, (FailureKind, String)> {
        if request.served_name.is_empty() {
            request.served_name.clone_from(&request.model);
        }
        let (progress, _) = watch::channel(LoadProgress::default());
        let cancelled = self.stopping.child_token();
        self.described(&mut Run { ticket: 0, request, path: None, progress, cancelled }).await
    }

    async fn described(&self, run: &mut Run) -> Result<WorkerLoad, (FailureKind, String)> {
        let path = match run.path.take() {
            Some(path) => path,
            None => self.resolve(run, &run.request.model).await?,
        };
        let Some(text) = path.to_str().map(str::to_owned) else {
            let message = format!("a model path must be UTF-8, got {}", path.display());
            return Err((FailureKind::InvalidRequest, message));
        };
        run.path = Some(path);
        let draft = self.resolve_draft(run).await?;
        Ok(WorkerLoad {
            served_name: run.request.served_name.clone(),
            path: text,
            quantize_bits: run.request.quantize_bits,
            context_tokens: run.request.context_tokens,
            quantize_group_size: run.request.quantize_group_size,
            quantize_mode: run.request.quantize_mode.clone(),
            lookup_tokens: run.request.lookup_tokens,
            draft,
            kv_dtype: run.request.kv_dtype.clone(),
            rank: None,
        })
    }

    /// Tells every worker, unless the model has been unloaded: judged and told under the lock that
    /// an unload takes first, so that no worker is told to load after it was told to unload.
    fn load_on_slots(&self, ticket: u64, load: &WorkerLoad) -> Option<Vec<EventStream<LoadProgress>>> {
        let entries = self.lock();
        let wanted = entries.by_name.get(&load.served_name).is_some_and(|it| it.ticket == ticket);
        wanted.then(|| self.slots.iter().map(|slot| slot.load(load.clone())).collect())
    }

    /// The draft that is wanted, with its files in the place of its name.
    async fn resolve_draft(&self, run: &Run) -> Result<Option<Draft>, (FailureKind, String)> {
        let Some(draft) = run.request.draft.clone() else { return Ok(None) };
        let path = self.resolve(run, &draft.model).await?;
        let model = path.into_os_string().into_string().map_err(|path| {
            let shown = Path::new(&path).display().to_string();
            (FailureKind::InvalidRequest, format!("a model path must be UTF-8, got {shown}"))
        })?;
        Ok(Some(Draft { model, ..draft }))
    }

    /// Looks for the model's files on a thread of its own: the store reads and hashes gigabytes.
    async fn resolve(&self, run: &Run, model: &str) -> Result<PathBuf, (FailureKind, String)> {
        let model = model.to_owned();
        let reference =
            ModelRef::parse(&model).map_err(|error| (FailureKind::InvalidRequest, error.to_string()))?;
        let (store, cancelled) = (Arc::clone(&self.store), run.cancelled.clone());
        let downloads = Downloads { progress: run.progress.clone(), totals: Mutex::default() };
        let runtime = Handle::current();
        let resolved = spawn_blocking(move || {
            let resolved = store.resolve(&reference, &downloads);
            runtime.block_on(cancelled.run_until_cancelled(resolved))
        });
        let resolved = match resolved.await {
            Ok(Some(resolved)) => resolved.map_err(|error| (kind_of(&error), error.to_string()))?,
            Ok(None) => return Err((FailureKind::ModelNotFound, format!("{model} was unloaded"))),
            Err(error) => {
                return Err((FailureKind::Internal, format!("cannot look for {model}: {error}")));
            }
        };
        info!(model, path = %resolved.path.display(), "model found");
        std::path::absolute(&resolved.path)
            .map_err(|error| (FailureKind::Internal, format!("cannot find {model}: {error}")))
    }

    /// Entries are inserted and removed whole, so they stay whole even if a holder panicked.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing follows this progress.
pub(crate) fn ended(progress: &LoadProgress) -> bool {
    use load_progress::Kind;
    matches!(progress.kind, Some(Kind::Ready(_) | Kind::Failed(_)))
}

fn once(progress: LoadProgress) -> BoxStream<'static, LoadProgress> {
    stream::once(std::future::ready(progress)).boxed()
}

fn kind_of(error: &ResolveError) -> FailureKind {
    use ResolveError as E;
    match error {
        E::NoSuchPath { .. }
        | E::NotAModel { .. }
        | E::NoSuchAlias { .. }
        | E::NoSuchRepo { .. }
        | E::NoSuchRevision { .. }
        | E::NoSuchFile { .. }
        | E::ChooseFile { .. }
        | E::NoWeights { .. }
        | E::Unauthorized { .. }
        | E::Offline { .. } => FailureKind::ModelNotFound,
        E::RateLimited { .. } | E::Unreachable { .. } | E::Truncated { .. } | E::DiskFull { .. } => {
            FailureKind::Overloaded
        }
        _ => FailureKind::Internal,
    }
}

/// Download events as steps of the load.
struct Downloads {
    progress: watch::Sender<LoadProgress>,
    /// Sizes of the files under way, 0 where unknown.
    totals: Mutex<BTreeMap<String, u64>>,
}

impl Downloads {
    fn step(&self, what: String, done_bytes: u64, total_bytes: u64) {
        let step = LoadStep { what, done_bytes, total_bytes };
        self.progress.send_replace(LoadProgress { kind: Some(load_progress::Kind::Step(step)) });
    }

    fn totals(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Downloads {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { file, done_bytes, total_bytes } => {
                let total = total_bytes.unwrap_or(0);
                self.totals().insert(file.to_owned(), total);
                self.step(format!("downloading {file}"), done_bytes, total);
            }
            Event::Advanced { file, done_bytes } => {
                let total = self.totals().get(file).copied().unwrap_or(0);
                self.step(format!("downloading {file}"), done_bytes, total);
            }
            Event::Retrying { file, wait, reason } => {
                let seconds = wait.as_secs_f32();
                self.step(format!("fetching {file} again in {seconds:.1} s: {reason}"), 0, 0);
            }
            Event::WaitingForLock { file } => {
                self.step(format!("waiting for another process that fetches {file}"), 0, 0);
            }
            Event::Finished { file } => _ = self.totals().remove(file),
        }
    }
}

const ENDING: &str = "the node is ending";
