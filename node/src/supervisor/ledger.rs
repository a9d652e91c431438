//! What one worker owes: the requests it runs, the models it holds or must load.
//!
//! Plain bookkeeping: events and losses in, messages to callers and commands to the worker out.
//! Knows nothing of processes; `slot` tells it when one is ready and when it is lost.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlxcel_protocol::v1::{
    CancelRequest, FailureKind, GenerateEvent, GenerateRequest, LoadProgress, ModelState, ModelStatus,
    MovePrefixEvent, MovePrefixRequest, UnloadModelRequest, WorkerCommand, WorkerGenerate, WorkerLoad,
    WorkerLoadProgress, WorkerMeet, WorkerMovePrefix, WorkerMovedPrefix, generate_event, load_progress,
    worker_command,
};
use tokio::sync::mpsc;
use tracing::{error, info};

use crate::events::EventSender;
use crate::{moves, wire};

/// Counts as one request for as long as it lives.
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    pub(crate) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request on its way to the worker.
pub(crate) struct Dispatch {
    /// Its id is unique on this node.
    pub(crate) request: GenerateRequest,
    pub(crate) events: EventSender<GenerateEvent>,
    pub(crate) in_flight: InFlight,
}

#[derive(Default)]
pub(crate) struct Ledger {
    running: HashMap<String, (EventSender<GenerateEvent>, InFlight)>,
    models: BTreeMap<String, Model>,
    /// Moves of prefixes that the worker has an end of.
    moves: HashMap<u64, mpsc::UnboundedSender<MovePrefixEvent>>,
    /// As the worker last reported it.
    reported: Vec<ModelState>,
}

struct Model {
    load: WorkerLoad,
    waiting: Vec<EventSender<LoadProgress>>,
    /// The process that runs now has been told to load it.
    sent: bool,
    /// It has been ready, so it is loaded again when the worker is lost.
    proven: bool,
}

impl Ledger {
    /// Starts a request, or ends it at once when there is no worker to run it.
    pub(crate) fn generate(&mut self, dispatch: Dispatch, unready: Option<&str>) -> Option<WorkerCommand> {
        let Dispatch { request, events, in_flight } = dispatch;
        if let Some(reason) = unready {
            let message = format!("the worker is being restarted: {reason}");
            events.send(wire::failed(FailureKind::Overloaded, message));
            return None;
        }
        self.running.insert(request.request_id.clone(), (events, in_flight));
        Some(command(worker_command::Kind::Generate(request)))
    }

    /// The worker still owes the request's last event.
    pub(crate) fn cancel(&self, id: &str) -> Option<WorkerCommand> {
        let request = CancelRequest { request_id: id.into() };
        self.running.contains_key(id).then(|| command(worker_command::Kind::Cancel(request)))
    }

    /// Wants a model loaded. The command is for now, or none when it comes with [`Ledger::ready`].
    pub(crate) fn load(
        &mut self,
        load: WorkerLoad,
        progress: EventSender<LoadProgress>,
        worker_ready: bool,
    ) -> Option<WorkerCommand> {
        let name = load.served_name.clone();
        let model = self.models.entry(name).or_insert_with(|| Model {
            load: load.clone(),
            waiting: Vec::new(),
            sent: false,
            proven: false,
        });
        if model.load.rank != load.rank {
            // A rank of another attempt at the replica, which is over.
            let over =
                wire::load_failed(FailureKind::WorkerLost, "another attempt at the replica took its place");
            model.waiting.drain(..).for_each(|waiting| waiting.send(over.clone()));
            (model.load, model.proven) = (load.clone(), false);
        }
        model.waiting.push(progress);
        if !worker_ready {
            return None;
        }
        model.sent = true;
        // The worker answers a second load of a ready model at once, and joins one under way.
        Some(command(worker_command::Kind::Load(load)))
    }

    /// Begins a move, or ends it at once when there is no worker.
    pub(crate) fn begin_move(
        &mut self,
        id: u64,
        (first, events): (MovePrefixRequest, mpsc::UnboundedSender<MovePrefixEvent>),
        unready: Option<&str>,
    ) -> Option<WorkerCommand> {
        if let Some(reason) = unready {
            let message = format!("the worker is being restarted: {reason}");
            // Who asks may have gone, here and below.
            let _ = events.send(moves::failed(FailureKind::Overloaded, message));
            return None;
        }
        self.moves.insert(id, events);
        self.tell_move(id, Some(first))
    }

    /// What a move is told; nothing gives it up.
    pub(crate) fn tell_move(&mut self, id: u64, request: Option<MovePrefixRequest>) -> Option<WorkerCommand> {
        let known = match request {
            Some(_) => self.moves.contains_key(&id),
            None => self.moves.remove(&id).is_some(),
        };
        let told = WorkerMovePrefix { move_id: id, request };
        known.then(|| command(worker_command::Kind::MovePrefix(told)))
    }

    pub(crate) fn moved(&self, moved: WorkerMovedPrefix) {
        if let (Some(events), Some(event)) = (self.moves.get(&moved.move_id), moved.event) {
            let _ = events.send(event);
        }
    }

    /// What a rank is told, if it is still wanted.
    pub(crate) fn meet(&self, meet: WorkerMeet) -> Option<WorkerCommand> {
        let wanted = self.models.get(&meet.served_name).is_some_and(|model| model.sent);
        wanted.then(|| command(worker_command::Kind::Meet(meet)))
    }

    /// Forgets a model; true where it was wanted.
    pub(crate) fn unload(&mut self, name: &str) -> (bool, Option<WorkerCommand>) {
        let Some(model) = self.models.get(name) else { return (false, None) };
        let request = UnloadModelRequest { model: name.into() };
        let command = model.sent.then(|| command(worker_command::Kind::Unload(request)));
        let message = format!("{name} was unloaded while it was loading");
        self.end_load(name, &wire::load_failed(FailureKind::ModelNotFound, message));
        self.models.remove(name);
        (true, command)
    }

    /// A new process is ready: what it must load.
    pub(crate) fn ready(&mut self) -> Vec<WorkerCommand> {
        let loads = self.models.values_mut().map(|model| {
            model.sent = true;
            command(worker_command::Kind::Load(model.load.clone()))
        });
        loads.collect()
    }

    /// The process is gone: requests end, first loads fail, models that were ready are kept for
    /// the next one. A model whose first load took the worker down is not tried again.
    pub(crate) fn lost(&mut self, kind: FailureKind, reason: &str) {
        for (_, (events, _)) in self.running.drain() {
            events.send(wire::failed(kind, reason));
        }
        for (_, events) in self.moves.drain() {
            let _ = events.send(moves::failed(kind, reason));
        }
        self.reported.clear();
        for model in self.models.values_mut().filter(|model| model.sent && !model.proven) {
            for waiting in model.waiting.drain(..) {
                waiting.send(wire::load_failed(kind, reason));
            }
        }
        self.models.retain(|_, model| model.proven || !model.sent);
        for model in self.models.values_mut() {
            model.sent = false;
        }
    }

    pub(crate) fn reported(&mut self, models: Vec<ModelState>) {
        self.reported = models;
    }

    /// The worker of the device with this index says something of a request.
    pub(crate) fn generated(&mut self, generated: WorkerGenerate, device: u32) {
        let WorkerGenerate { request_id, event: Some(mut event) } = generated else { return };
        if let Some(generate_event::Kind::Started(started)) = &mut event.kind {
            started.device_index = Some(device);
        }
        if wire::ends(&event) {
            if let Some((events, _)) = self.running.remove(&request_id) {
                events.send(event);
            }
        } else if let Some((events, _)) = self.running.get(&request_id) {
            events.send(event);
        }
    }

    pub(crate) fn load_progressed(&mut self, load: WorkerLoadProgress) {
        let WorkerLoadProgress { served_name: name, progress: Some(progress) } = load else { return };
        match &progress.kind {
            Some(load_progress::Kind::Ready(state)) => {
                info!(model = name, weight_bytes = state.weight_bytes, "model ready");
                if let Some(model) = self.models.get_mut(&name) {
                    // A rank cannot come back by itself: its replica is over when it is lost.
                    model.proven = model.load.rank.is_none();
                }
                match self.reported.iter_mut().find(|model| model.name == name) {
                    Some(model) => model.clone_from(state),
                    None => self.reported.push(state.clone()),
                }
                self.end_load(&name, &progress);
            }
            Some(load_progress::Kind::Failed(failure)) => {
                self.end_load(&name, &progress);
                if self.models.remove(&name).is_some_and(|model| model.proven) {
                    error!(model = name, "cannot load model again: {}", failure.message);
                }
            }
            _ => {
                for waiting in self.models.get(&name).into_iter().flat_map(|model| &model.waiting) {
                    waiting.send(progress.clone());
                }
            }
        }
    }

    /// Models for the node's state: as reported, and those still to be loaded.
    pub(crate) fn models(&self) -> Vec<ModelState> {
        let unreported = self
            .models
            .keys()
            .filter(|name| !self.reported.iter().any(|model| model.name == **name))
            .map(|name| wire::loading_model(name));
        let wanted = self.reported.iter().filter(|model| self.models.contains_key(&model.name));
        wanted.cloned().chain(unreported).collect()
    }

    fn end_load(&mut self, name: &str, progress: &LoadProgress) {
        let Some(model) = self.models.get_mut(name) else { return };
        for waiting in model.waiting.drain(..) {
            waiting.send(progress.clone());
        }
    }
}

/// Whether requests on the model can run.
pub(crate) fn is_ready(model: &ModelState) -> bool {
    model.status() == ModelStatus::Ready
}

fn command(kind: worker_command::Kind) -> WorkerCommand {
    WorkerCommand { kind: Some(kind) }
}

#[cfg(test)]
mod tests;
