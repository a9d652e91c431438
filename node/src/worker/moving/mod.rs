//! Prefixes on their way between this worker's engines and those of other workers.
//!
//! Each move is a conversation on a thread of its own: `sending` computes and writes, `receiving` makes room and takes
//! over. Whatever ends one (its caller, its deadline, the peer, the engine) frees what it held, and costs the request it
//! was for no more than computing its prompt.

mod plane;
mod receiving;
mod sending;
mod staging;

use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mlxcel_engine::transfer::PrefixDoor;
use mlxcel_engine::{Engine, GenerateError};
use mlxcel_protocol::v1::move_prefix_event::Kind as Said;
use mlxcel_protocol::v1::move_prefix_request::Kind as Told;
use mlxcel_protocol::v1::{
    FailureKind, MovePrefixEvent, MovePrefixRequest, WorkerEvent, WorkerMovedPrefix, worker_event,
};
use tracing::info;

use super::host::Input;
use super::outbox::Outbox;
use crate::wire;
use plane::Plane;

/// The moves of a worker.
pub(super) struct Moves {
    outbox: Outbox,
    inputs: Sender<Input>,
    running: HashMap<u64, Running>,
    plane: Arc<Mutex<Option<Arc<Plane>>>>,
    staged: Arc<AtomicUsize>,
}

struct Running {
    model: String,
    notes: Sender<Note>,
}

/// Why a move came to nothing.
type Refusal = (FailureKind, String);

/// What reaches a conversation.
enum Note {
    /// Its caller says something.
    Told(Box<Told>),
    GivenUp,
    /// Images of a layer are in the staging memory, there.
    Staged(Vec<Range<usize>>),
    /// The prefix has been computed, or will not be.
    Computed(Result<(), GenerateError>),
}

impl Moves {
    pub(super) fn new(outbox: Outbox, inputs: Sender<Input>) -> Self {
        Self { outbox, inputs, running: HashMap::new(), plane: Arc::default(), staged: Arc::default() }
    }

    /// Which model a move's first message names.
    pub(super) fn model(request: &MovePrefixRequest) -> Option<&str> {
        match request.kind.as_ref()? {
            Told::Send(send) => Some(&send.model),
            Told::Receive(receive) => Some(&receive.request.as_ref()?.model),
            Told::Target(_) | Told::Written(_) => None,
        }
    }

    /// Whether the move is known: what it is told next needs no engine.
    pub(super) fn has(&self, id: u64) -> bool {
        self.running.contains_key(&id)
    }

    /// Passes something on to a move; without a request it is given up. A move that has ended hears nothing.
    pub(super) fn tell(&self, id: u64, request: Option<MovePrefixRequest>) {
        let note =
            request.and_then(|request| request.kind).map_or(Note::GivenUp, |told| Note::Told(Box::new(told)));
        if let Some(running) = self.running.get(&id) {
            // Fails only when it has just ended.
            let _ = running.notes.send(note);
        }
    }

    /// Begins a move in or out of `engine`.
    pub(super) fn begin(&mut self, id: u64, first: MovePrefixRequest, engine: Arc<dyn Engine>) {
        if self.running.len() >= MOST_MOVES {
            let message = format!("{MOST_MOVES} prefixes are on their way already");
            return self.refuse(id, (FailureKind::Overloaded, message));
        }
        let Some(model) = Self::model(&first).map(str::to_owned) else {
            return self.refuse(id, out_of_turn());
        };
        let (own, notes) = mpsc::channel();
        self.running.insert(id, Running { model, notes: own.clone() });
        self.tell(id, Some(first));
        let outbox = self.outbox.clone();
        let conversation = Conversation {
            id,
            engine,
            plane: Arc::clone(&self.plane),
            staged: Arc::clone(&self.staged),
            notes,
            own,
            reply: Box::new(move |said| outbox.push(event(id, said))),
            until: Instant::now() + USUAL_PATIENCE,
        };
        let (outbox, inputs) = (self.outbox.clone(), self.inputs.clone());
        let work = move || {
            let ended = catch_unwind(AssertUnwindSafe(|| conversation.run()));
            let panicked = || Err((FailureKind::Internal, "moving a prefix panicked".to_owned()));
            if let Err((kind, message)) = ended.unwrap_or_else(|_| panicked()) {
                info!(id, "no prefix was moved: {message}");
                outbox.push(event(id, Said::Failed(wire::failure(kind, message))));
            }
            // Fails only when the worker has already ended.
            let _ = inputs.send(Input::MoveEnded(id));
        };
        if let Err(error) = thread::Builder::new().name(THREAD.to_owned()).spawn(work) {
            self.running.remove(&id);
            self.refuse(id, (FailureKind::Overloaded, format!("no thread can be started: {error}")));
        }
    }

    pub(super) fn refuse(&self, id: u64, (kind, message): Refusal) {
        self.outbox.push(event(id, Said::Failed(wire::failure(kind, message))));
    }

    pub(super) fn ended(&mut self, id: u64) {
        self.running.remove(&id);
    }

    /// Gives up the moves of a model that is unloaded.
    pub(super) fn forget(&self, model: &str) {
        for running in self.running.values().filter(|running| running.model == model) {
            let _ = running.notes.send(Note::GivenUp);
        }
    }
}

/// One end of one move.
struct Conversation {
    id: u64,
    engine: Arc<dyn Engine>,
    plane: Arc<Mutex<Option<Arc<Plane>>>>,
    staged: Arc<AtomicUsize>,
    notes: Receiver<Note>,
    /// Where the engine's threads leave notes.
    own: Sender<Note>,
    reply: Box<dyn Fn(Said) + Send>,
    until: Instant,
}

impl Conversation {
    fn run(mut self) -> Result<(), Refusal> {
        match self.told()? {
            Told::Send(send) => {
                self.until = until(send.deadline_micros);
                sending::send(&self)
            }
            Told::Receive(receive) => {
                self.until = until(receive.deadline_micros);
                receiving::receive(&self, receive)
            }
            Told::Target(_) | Told::Written(_) => Err(out_of_turn()),
        }
    }

    fn say(&self, said: Said) {
        (self.reply)(said);
    }

    /// What its caller says next.
    fn told(&self) -> Result<Told, Refusal> {
        loop {
            if let Some(Note::Told(told)) = self.note(self.until)? {
                return Ok(*told);
            }
        }
    }

    /// The next note; none where there is none until then.
    fn note(&self, by: Instant) -> Result<Option<Note>, Refusal> {
        let now = Instant::now();
        match self.notes.recv_timeout(by.min(self.until).saturating_duration_since(now)) {
            Ok(Note::GivenUp) => Err((FailureKind::Internal, "the move was given up".to_owned())),
            Ok(note) => Ok(Some(note)),
            Err(RecvTimeoutError::Timeout) if Instant::now() < self.until => Ok(None),
            Err(_) => {
                let message = "the prefix was not moved within the time it was given".to_owned();
                Err((FailureKind::DeadlineExceeded, message))
            }
        }
    }

    /// The engine's door, if it has one.
    fn door(&self) -> Result<&dyn PrefixDoor, Refusal> {
        let closed = "prefixes of this model cannot be moved: it is divided over several devices, or keeps more than keys and values";
        self.engine.prefixes().ok_or_else(|| (FailureKind::InvalidRequest, closed.to_owned()))
    }

    /// The worker's end of the data plane; the first move opens it.
    fn plane(&self) -> Result<Arc<Plane>, Refusal> {
        let mut plane = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plane) = plane.as_ref() {
            return Ok(Arc::clone(plane));
        }
        let started = Plane::start().map_err(|error| (FailureKind::Internal, error))?;
        Ok(Arc::clone(plane.insert(Arc::new(started))))
    }

    /// Counts `bytes` of staging memory until what is returned is dropped.
    fn stage(&self, bytes: usize) -> Result<Staged, Refusal> {
        let fits = |held: usize| held.checked_add(bytes).filter(|held| *held <= MOST_STAGED_BYTES);
        let taken = self.staged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        match taken {
            Ok(_) => Ok(Staged { staged: Arc::clone(&self.staged), bytes }),
            Err(held) => {
                let message = format!(
                    "a prefix of {bytes} bytes would need more staging memory than the {MOST_STAGED_BYTES} bytes there are, of which {held} are taken"
                );
                Err((FailureKind::Overloaded, message))
            }
        }
    }
}

/// Staging memory that is counted.
struct Staged {
    staged: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.staged.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn event(id: u64, said: Said) -> WorkerEvent {
    let event = Some(MovePrefixEvent { kind: Some(said) });
    WorkerEvent { kind: Some(worker_event::Kind::MovedPrefix(WorkerMovedPrefix { move_id: id, event })) }
}

fn until(deadline_micros: u64) -> Instant {
    let patience = match deadline_micros {
        0 => USUAL_PATIENCE,
        micros => Duration::from_micros(micros).min(USUAL_PATIENCE),
    };
    Instant::now() + patience
}

fn out_of_turn() -> Refusal {
    let rule = "a move begins with `send` or `receive`, and goes on with `target` or `written`";
    (FailureKind::InvalidRequest, rule.to_owned())
}

fn invalid(message: impl Into<String>) -> Refusal {
    (FailureKind::InvalidRequest, message.into())
}

/// Of threads.
const THREAD: &str = "prefix-move";
/// Moves at a time: each has a thread.
const MOST_MOVES: usize = 16;
/// Of all moves of a worker together.
const MOST_STAGED_BYTES: usize = 4 << 30;
const USUAL_PATIENCE: Duration = Duration::from_secs(600);
