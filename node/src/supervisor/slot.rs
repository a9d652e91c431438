//! The task that keeps one device's worker running and gives it work.
//!
//! A thin shell: `lifecycle` decides when to start, `ledger` what is owed to whom, `process` runs.
//! Knows nothing of the node's other devices or of connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mlxcel_protocol::v1::{
    FailureKind, GenerateEvent, GenerateRequest, LoadProgress, MovePrefixEvent, MovePrefixRequest,
    WorkerEvent, WorkerHealth, WorkerLoad, WorkerMeet, WorkerReady, WorkerState, worker_event,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::ledger::{Dispatch, InFlight, Ledger, is_ready};
use super::lifecycle::{Action, Lifecycle, Patience};
use super::process::{Output, Process, WorkerProgram};
use super::pulse::{Bounds, Finding, Pulse};
use crate::events::{EventSender, EventStream, channel};
use crate::wire;

/// What a slot shows of its worker.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SlotState {
    pub(crate) worker: WorkerState,
    /// What the worker said when it was last ready.
    pub(crate) ready: Option<WorkerReady>,
}

/// A handle on the task; dropping it stops nothing, [`Slot::stop`] does.
pub(crate) struct Slot {
    commands: mpsc::UnboundedSender<Command>,
    state: watch::Receiver<SlotState>,
    in_flight: Arc<AtomicUsize>,
    task: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Load(WorkerLoad, EventSender<LoadProgress>),
    Meet(WorkerMeet),
    Unload(String, oneshot::Sender<bool>),
    Generate(Box<Dispatch>),
    Cancel(String),
    BeginMove(u64, MovePrefixRequest, mpsc::UnboundedSender<MovePrefixEvent>),
    TellMove(u64, Option<MovePrefixRequest>),
    Stop,
}

impl Slot {
    /// Starts the worker of the device with this index, and its supervision. `changed` is marked
    /// after every change of the slot's state; `bounds` say when a worker is taken for hung.
    pub(crate) fn start(
        index: u32,
        program: WorkerProgram,
        bounds: Bounds,
        changed: watch::Sender<()>,
    ) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let worker = WorkerState {
            device_index: index,
            health: WorkerHealth::Starting.into(),
            ..WorkerState::default()
        };
        let (publish, state) = watch::channel(SlotState { worker, ready: None });
        let shell = Shell {
            index,
            program,
            lifecycle: Lifecycle::new(Patience::default(), Instant::now()),
            pulse: Pulse::new(bounds),
            stalled: None,
            ledger: Ledger::default(),
            process: None,
            publish,
            changed,
        };
        let task = tokio::spawn(shell.run(inbox));
        Self { commands, state, in_flight: Arc::default(), task: Mutex::new(Some(task)) }
    }

    pub(crate) fn state(&self) -> SlotState {
        self.state.borrow().clone()
    }

    /// Waits for the worker to be ready for the first time.
    ///
    /// # Errors
    /// Why it ended before it was.
    pub(crate) async fn first_ready(&self) -> Result<(), String> {
        let mut state = self.state.clone();
        let settled =
            state.wait_for(|state| state.worker.health() == WorkerHealth::Ready || state.worker.restarts > 0);
        match settled.await {
            Ok(state) if state.ready.is_some() => Ok(()),
            Ok(state) => Err(state.worker.reason.clone()),
            Err(_) => Err("the supervisor has ended".into()),
        }
    }

    /// Requests the worker has not ended yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn has_ready(&self, model: &str) -> bool {
        let state = self.state.borrow();
        state.worker.health() == WorkerHealth::Ready
            && state.worker.models.iter().any(|it| it.name == model && is_ready(it))
    }

    pub(crate) fn wants(&self, model: &str) -> bool {
        self.state.borrow().worker.models.iter().any(|it| it.name == model)
    }

    /// Loads a model; the stream ends with one `ready` or `failed`.
    pub(crate) fn load(&self, load: WorkerLoad) -> EventStream<LoadProgress> {
        let (sender, stream) = channel();
        self.send(Command::Load(load, sender));
        stream
    }

    /// Tells a rank that listens whom to meet.
    pub(crate) fn meet(&self, meet: WorkerMeet) {
        self.send(Command::Meet(meet));
    }

    /// Whether the model was loaded, or wanted.
    pub(crate) async fn unload(&self, model: &str) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Unload(model.into(), reply));
        answer.await.unwrap_or(false)
    }

    /// Runs a request; the stream ends with one `finished` or `failed`.
    pub(crate) fn generate(&self, request: GenerateRequest) -> EventStream<GenerateEvent> {
        let (events, stream) = channel();
        let in_flight = InFlight::new(&self.in_flight);
        self.send(Command::Generate(Box::new(Dispatch { request, events, in_flight })));
        stream
    }

    pub(crate) fn cancel(&self, id: String) {
        self.send(Command::Cancel(id));
    }

    /// Begins a move of a prefix under a number no other has had; what the worker says.
    pub(crate) fn begin_move(
        &self,
        id: u64,
        first: MovePrefixRequest,
    ) -> mpsc::UnboundedReceiver<MovePrefixEvent> {
        let (events, stream) = mpsc::unbounded_channel();
        self.send(Command::BeginMove(id, first, events));
        stream
    }

    /// Tells a move something; without a request it is given up, if it has not ended.
    pub(crate) fn tell_move(&self, id: u64, request: Option<MovePrefixRequest>) {
        self.send(Command::TellMove(id, request));
    }

    /// Ends the requests and the worker, and waits until the process is gone.
    pub(crate) async fn stop(&self) {
        self.send(Command::Stop);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // An error says that it has ended, by panic.
            let _ = task.await;
        }
    }

    /// Kills the worker without waiting for it.
    pub(crate) fn abandon(&self) {
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            // Drops the process, which kills it.
            task.abort();
        }
    }

    /// Commands after the end are dropped; their streams end without an event.
    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

struct Shell {
    index: u32,
    program: WorkerProgram,
    lifecycle: Lifecycle,
    pulse: Pulse,
    /// Why the worker is taken for stalled.
    stalled: Option<String>,
    ledger: Ledger,
    process: Option<Process>,
    publish: watch::Sender<SlotState>,
    changed: watch::Sender<()>,
}

impl Shell {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        loop {
            if let Some(action) = self.lifecycle.poll(Instant::now()) {
                self.act(action);
            }
            self.feel();
            self.show();
            let deadline = [self.lifecycle.deadline(), self.pulse.deadline()].into_iter().flatten().min();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(Command::Stop) | None => break,
                    Some(command) => self.command(command),
                },
                output = next(&mut self.process) => match output {
                    Output::Event(event) => self.event(event),
                    Output::Gone(reason) => self.gone(reason),
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {}
            }
        }
        inbox.close();
        self.ledger.lost(FailureKind::Draining, "the node ended before the request did");
        if let Some(process) = self.process.take() {
            process.stop().await;
        }
        while let Ok(command) = inbox.try_recv() {
            self.refuse(command);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn => match Process::spawn(&self.program, self.index) {
                Ok(process) => self.process = Some(process),
                Err(error) => {
                    let program = self.program.program.display();
                    self.gone(format!("worker {program} cannot be started: {error}"));
                }
            },
            Action::Kill { why } => {
                if let Some(process) = &mut self.process {
                    process.kill(why);
                }
            }
        }
    }

    /// Finds out whether the worker lives.
    fn feel(&mut self) {
        if self.pulse.deadline().is_none() {
            return;
        }
        let stalled = match self.pulse.judge(Instant::now()) {
            Finding::Well => None,
            Finding::Stalled(why) => Some(why),
            Finding::Hung(why) => {
                self.act(Action::Kill { why: format!("hung: {why}") });
                self.pulse.ends();
                self.stalled = None;
                Some(why)
            }
        };
        match (&self.stalled, &stalled) {
            (None, Some(why)) => warn!(device = self.index, "the worker is stalled: {why}"),
            (Some(_), None) => info!(device = self.index, "the worker goes on"),
            _ => {}
        }
        // The first words for it: what has grown since is no change of state.
        self.stalled = stalled.map(|why| self.stalled.take().unwrap_or(why));
    }

    fn command(&mut self, command: Command) {
        let ready = self.lifecycle.health() == WorkerHealth::Ready;
        let command = match command {
            Command::Load(load, progress) => self.ledger.load(load, progress, ready),
            Command::Meet(meet) => self.ledger.meet(meet),
            Command::Unload(model, reply) => {
                let (wanted, command) = self.ledger.unload(&model);
                // Whoever asked may have gone.
                let _ = reply.send(wanted);
                command
            }
            Command::Generate(dispatch) => {
                let unready = (!ready).then(|| self.lifecycle.reason());
                self.ledger.generate(*dispatch, unready)
            }
            Command::Cancel(id) => self.ledger.cancel(&id),
            Command::BeginMove(id, first, events) => {
                let unready = (!ready).then(|| self.lifecycle.reason());
                self.ledger.begin_move(id, (first, events), unready)
            }
            Command::TellMove(id, request) => self.ledger.tell_move(id, request),
            Command::Stop => None,
        };
        if let (Some(command), Some(process)) = (command, &self.process) {
            process.send(command);
        }
    }

    fn refuse(&mut self, command: Command) {
        if let Command::Generate(dispatch) = command {
            let failed = wire::failed(FailureKind::Draining, "the node is ending");
            dispatch.events.send(failed);
        }
    }

    fn event(&mut self, event: WorkerEvent) {
        use worker_event::Kind;
        match event.kind {
            Some(Kind::Ready(ready)) => {
                info!(device = self.index, pid = ready.pid, "worker ready");
                self.lifecycle.ready(Instant::now());
                self.pulse.begins(Instant::now());
                self.publish.send_modify(|state| state.ready = Some(ready));
                if let Some(process) = &self.process {
                    self.ledger.ready().into_iter().for_each(|load| process.send(load));
                }
            }
            Some(Kind::Load(load)) => self.ledger.load_progressed(load),
            Some(Kind::Generate(generated)) => self.ledger.generated(generated, self.index),
            Some(Kind::Beat(beat)) => self.pulse.beats(&beat, Instant::now()),
            Some(Kind::MovedPrefix(moved)) => self.ledger.moved(moved),
            Some(Kind::Models(models)) => self.ledger.reported(models.models),
            None => warn!(device = self.index, "the worker sent an event of unknown kind"),
        }
    }

    fn gone(&mut self, reason: String) {
        let now = Instant::now();
        self.process = None;
        self.pulse.ends();
        self.stalled = None;
        self.ledger.lost(FailureKind::WorkerLost, &reason);
        self.lifecycle.gone(reason, now);
        let wait = self.lifecycle.deadline().map(|due| due.saturating_duration_since(now));
        warn!(
            device = self.index,
            restarts = self.lifecycle.restarts(),
            wait_ms = wait.map(|wait| wait.as_millis()),
            "{}; it will be restarted",
            self.lifecycle.reason()
        );
    }

    fn show(&self) {
        let reason = self.stalled.as_deref().unwrap_or_else(|| self.lifecycle.reason());
        let worker = WorkerState {
            device_index: self.index,
            health: self.lifecycle.health().into(),
            restarts: self.lifecycle.restarts(),
            reason: reason.into(),
            models: self.ledger.models(),
            pid: self.process.as_ref().map_or(0, Process::pid),
            stalled: self.stalled.is_some(),
        };
        let changed = self.publish.send_if_modified(|state| {
            let differs = state.worker != worker;
            state.worker = worker;
            differs
        });
        if changed {
            self.changed.send_replace(());
        }
    }
}

async fn next(process: &mut Option<Process>) -> Output {
    match process {
        Some(process) => process.next().await,
        None => std::future::pending().await,
    }
}
