//! The node without its network: workers, models, requests, and what it says of itself.
//!
//! Picks the worker for a request and follows each request to its end. Knows nothing of callers
//! beyond a number each; `service` decides who is one.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::stream::BoxStream;
use mlxcel_protocol::v1::{
    FailureKind, GenerateEvent, GenerateRequest, JoinReplicaRequest, LoadModelRequest, LoadProgress,
    MovePrefixEvent, MovePrefixRequest, NodeInfo, NodeState, Role,
};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::events::{EventStream, channel};
use crate::loadable::Loadable;
use crate::models::Models;
use crate::moves;
use crate::replicas;
use crate::supervisor::Slot;
use crate::wire;

/// A caller's connection.
pub(crate) type CallerId = u64;

pub(crate) struct Host {
    /// What does not change: id, name, system, roles.
    info: NodeInfo,
    slots: Arc<[Slot]>,
    models: Arc<Models>,
    draining: AtomicBool,
    running: Mutex<HashMap<(CallerId, String), Place>>,
    next_id: AtomicU64,
    loadable: Mutex<Loadable>,
    /// Marked after every change of the node's state.
    changed: watch::Sender<()>,
}

/// Where a request runs.
#[derive(Debug, Clone)]
struct Place {
    slot: usize,
    /// The request's name at the worker: callers choose theirs without knowing of each other.
    id: String,
}

impl Host {
    pub(crate) fn new(
        info: NodeInfo,
        slots: Arc<[Slot]>,
        models: Arc<Models>,
        changed: watch::Sender<()>,
    ) -> Self {
        Self {
            info,
            slots,
            models,
            draining: AtomicBool::new(false),
            running: Mutex::default(),
            next_id: AtomicU64::new(0),
            loadable: Mutex::default(),
            changed,
        }
    }

    /// Marked whenever [`Host::state`] is worth reading again.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn info(&self) -> NodeInfo {
        let mut info = self.info.clone();
        for ready in self.slots.iter().filter_map(|slot| slot.state().ready) {
            info.devices.extend(ready.device);
            info.mlx_version = ready.mlx_version;
        }
        info
    }

    pub(crate) fn state(&self) -> NodeState {
        let Loadable { names, sizes, .. } = lock(&self.loadable).clone();
        NodeState {
            node: Some(self.info()),
            workers: self.slots.iter().map(|slot| slot.state().worker).collect(),
            draining: self.is_draining(),
            loadable_models: names,
            model_sizes: sizes,
        }
    }

    /// Looks at the store and publishes what changed there.
    pub(crate) async fn refresh_loadable(&self) {
        let (store, known) = (self.models.store(), lock(&self.loadable).clone());
        let look = tokio::task::spawn_blocking(move || known.renewed(&store));
        let Ok(renewed) = look.await else { return };
        let mut loadable = lock(&self.loadable);
        if *loadable != renewed {
            *loadable = renewed;
            self.changed.send_replace(());
        }
    }

    pub(crate) fn load(&self, request: LoadModelRequest) -> BoxStream<'static, LoadProgress> {
        if self.is_draining() {
            let failed = wire::load_failed(FailureKind::Draining, DRAINING);
            return Box::pin(futures::stream::once(std::future::ready(failed)));
        }
        self.models.load(request)
    }

    /// Makes one of the devices a rank of a replica.
    pub(crate) fn join_replica(
        &self,
        requests: impl Stream<Item = JoinReplicaRequest> + Send + Unpin + 'static,
    ) -> BoxStream<'static, LoadProgress> {
        let refusal = match self.info.roles.contains(&Role::Rank.into()) {
            _ if self.is_draining() => Some((FailureKind::Draining, DRAINING)),
            false => {
                Some((FailureKind::InvalidRequest, "this node is standalone: it takes whole requests only"))
            }
            true => None,
        };
        match refusal {
            Some((kind, message)) => {
                let failed = wire::load_failed(kind, message);
                Box::pin(futures::stream::once(std::future::ready(failed)))
            }
            None => replicas::join(Arc::clone(&self.models), requests),
        }
    }

    /// Holds one end of a move of a prefix, with the worker that a request on the model would get now.
    pub(crate) fn move_prefix(
        self: &Arc<Self>,
        requests: impl Stream<Item = MovePrefixRequest> + Send + Unpin + 'static,
    ) -> BoxStream<'static, MovePrefixEvent> {
        let host = Arc::clone(self);
        moves::converse(requests, move |model| {
            if !host.info.roles.contains(&Role::Rank.into()) {
                let message = "this node is standalone: it opens no data plane to others".to_owned();
                return Err((FailureKind::InvalidRequest, message));
            }
            let slot = host.place(model)?;
            Ok((Arc::clone(&host.slots), slot, host.next_id.fetch_add(1, Ordering::Relaxed)))
        })
    }

    pub(crate) async fn unload(&self, model: &str) -> bool {
        self.models.unload(model).await
    }

    /// Starts a request on the least loaded worker that has the model.
    pub(crate) fn generate(self: &Arc<Self>, caller: CallerId, mut request: GenerateRequest) -> Generation {
        let key = (caller, request.request_id.clone());
        let mut running = lock(&self.running);
        // Judged under the lock: a drain that has begun waits for every request let in before.
        let slot = match self.place(&request.model) {
            Err((kind, message)) => return Generation::refused(kind, message),
            Ok(_) if running.contains_key(&key) => {
                let message = format!("a request id must be unique, {} is running", key.1);
                return Generation::refused(FailureKind::InvalidRequest, message);
            }
            Ok(slot) => slot,
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        running.insert(key.clone(), Place { slot, id: id.clone() });
        drop(running);
        request.request_id = id;
        let events = self.slots[slot].generate(request);
        Generation { events, ended: false, guard: Some(Guard { host: Arc::clone(self), key }) }
    }

    /// Whether the request was running; its stream ends by itself soon.
    pub(crate) fn cancel(&self, caller: CallerId, request_id: &str) -> bool {
        let place = lock(&self.running).get(&(caller, request_id.to_owned())).cloned();
        match place {
            Some(place) => {
                self.slots[place.slot].cancel(place.id);
                true
            }
            None => false,
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Takes no new requests; true when the running ones have ended within `patience`.
    pub(crate) async fn drain(&self, patience: Duration) -> bool {
        let mut changes = self.changes();
        {
            let _running = lock(&self.running);
            self.draining.store(true, Ordering::SeqCst);
        }
        self.changed.send_replace(());
        timeout(patience, async {
            while self.running() > 0 {
                // Fails only without a sender, and this host holds one.
                let _ = changes.changed().await;
            }
        })
        .await
        .is_ok()
    }

    /// Requests whose streams are not finished.
    pub(crate) fn running(&self) -> usize {
        lock(&self.running).len()
    }

    /// Ends every worker; requests on them end as failed.
    pub(crate) async fn stop(&self) {
        self.models.stop();
        futures::future::join_all(self.slots.iter().map(Slot::stop)).await;
    }

    /// Ends every worker without waiting for it.
    pub(crate) fn abandon(&self) {
        self.models.stop();
        self.slots.iter().for_each(Slot::abandon);
    }

    fn place(&self, model: &str) -> Result<usize, (FailureKind, String)> {
        if self.is_draining() {
            return Err((FailureKind::Draining, DRAINING.into()));
        }
        let having = self.slots.iter().enumerate().filter(|(_, slot)| slot.has_ready(model));
        if let Some((slot, _)) = having.min_by_key(|(_, slot)| slot.in_flight()) {
            return Ok(slot);
        }
        if self.slots.iter().any(|slot| slot.wants(model)) {
            let message = format!("{model} is being loaded on this node; try again soon");
            return Err((FailureKind::Overloaded, message));
        }
        Err((FailureKind::ModelNotFound, format!("{model} is not loaded on this node")))
    }
}

/// The events of one request. Dropping it before the end cancels the request.
pub(crate) struct Generation {
    events: EventStream<GenerateEvent>,
    ended: bool,
    guard: Option<Guard>,
}

struct Guard {
    host: Arc<Host>,
    key: (CallerId, String),
}

impl Generation {
    fn refused(kind: FailureKind, message: String) -> Self {
        let (sender, events) = channel();
        sender.send(wire::failed(kind, message));
        Self { events, ended: false, guard: None }
    }
}

impl Stream for Generation {
    type Item = GenerateEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<GenerateEvent>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = ready!(Pin::new(&mut self.events).poll_next(context))
            .unwrap_or_else(|| wire::failed(FailureKind::WorkerLost, "the worker's supervisor has ended"));
        self.ended = wire::ends(&event);
        Poll::Ready(Some(event))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let Some(Guard { host, key }) = self.guard.take() else { return };
        let place = lock(&host.running).remove(&key);
        if let Some(place) = place.filter(|_| !self.ended) {
            host.slots[place.slot].cancel(place.id);
        }
        host.changed.send_replace(());
    }
}

/// Every change under these locks is one call, so what they hold stays whole after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const DRAINING: &str = "the node is ending and takes no new work";
