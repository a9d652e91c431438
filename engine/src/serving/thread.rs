//! The engine's thread, and the handle through which everyone else talks to it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::command::{Command, SharedState, Start};
use super::sequence::Sequence;
use super::step::{Launched, advance, settle};
use crate::api::{Engine, EngineState, EventSink};
use crate::decoder::Model;
use crate::kv::KvCache;
use crate::request::{Event, GenerateError, Prompt, Request};
use crate::schedule::{Scheduler, SchedulerLimits, SequenceId};
use crate::text::TextCodec;

/// Talks to the engine's thread; ends it when dropped.
pub(super) struct EngineHandle {
    /// Taken when the handle is dropped, which tells the thread to end.
    commands: Mutex<Option<Sender<Command>>>,
    codec: Arc<TextCodec>,
    state: Arc<SharedState>,
    thread: Option<JoinHandle<()>>,
}

impl EngineHandle {
    pub(super) fn new(commands: Sender<Command>, codec: Arc<TextCodec>, state: Arc<SharedState>) -> Self {
        Self { commands: Mutex::new(Some(commands)), codec, state, thread: None }
    }

    /// Makes dropping the handle wait for the thread.
    pub(super) fn joined(mut self, thread: JoinHandle<()>) -> Self {
        self.thread = Some(thread);
        self
    }

    /// Gives the command back when the thread is gone.
    fn send(&self, command: Command) -> Result<(), Command> {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        match commands.as_ref() {
            Some(sender) => sender.send(command).map_err(|error| error.0),
            None => Err(command),
        }
    }
}

impl Engine for EngineHandle {
    fn submit(&self, request: Request, mut events: EventSink) {
        let prompt = match self.codec.encode_prompt(&request.prompt) {
            Ok(prompt) => prompt,
            Err(error) => return events(Event::Failed(GenerateError::Invalid(error.to_string()))),
        };
        let start = Start {
            continues: !matches!(request.prompt, Prompt::Chat(_)),
            id: request.id,
            prompt,
            sampling: request.sampling,
            limits: request.limits,
            events,
        };
        if let Err(Command::Start(mut start)) = self.send(Command::Start(Box::new(start))) {
            let gone = GenerateError::Internal("the engine has ended; load the model again".to_owned());
            (start.events)(Event::Failed(gone));
        }
    }

    fn cancel(&self, id: &str) {
        // An engine that has ended has nothing left to cancel.
        drop(self.send(Command::Cancel(id.to_owned())));
    }

    fn state(&self) -> EngineState {
        self.state.read()
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take() {
            // The thread catches its own panics; there is nothing to learn from the result.
            drop(thread.join());
        }
    }
}

/// What the thread owns.
pub(super) struct EngineThread {
    pub(super) model: Model,
    pub(super) cache: Box<dyn KvCache>,
    pub(super) scheduler: Scheduler,
    pub(super) sequences: BTreeMap<SequenceId, Sequence>,
    /// The step that runs now.
    pub(super) launched: Option<Launched>,
    codec: Arc<TextCodec>,
    commands: Receiver<Command>,
    state: Arc<SharedState>,
    next: u64,
}

impl EngineThread {
    pub(super) fn new(
        model: Model,
        codec: Arc<TextCodec>,
        limits: SchedulerLimits,
        commands: Receiver<Command>,
        state: Arc<SharedState>,
    ) -> Self {
        let cache = model.cache();
        let scheduler = Scheduler::new(limits);
        let sequences = BTreeMap::new();
        Self { model, cache, scheduler, sequences, launched: None, codec, commands, state, next: 0 }
    }

    /// Works until every handle is gone, then cancels what is left.
    pub(super) fn run(mut self) {
        while self.take_commands() {
            let step = catch_unwind(AssertUnwindSafe(|| advance(&mut self)));
            if step.is_err() {
                self.fail_all("the engine panicked during a step; this is a defect in mlxcel");
            }
            self.publish();
        }
        settle(&mut self);
        let now = Instant::now();
        for sequence in self.sequences.values_mut() {
            sequence.cancel(now);
        }
    }

    /// Handles what has arrived, waiting when there is nothing else to do; false when all handles are gone.
    fn take_commands(&mut self) -> bool {
        if self.sequences.is_empty() {
            settle(self);
            match self.commands.recv() {
                Ok(command) => self.handle(command),
                Err(_) => return false,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.handle(command),
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.start(*start),
            Command::Cancel(id) => {
                let named = self.sequences.iter().find(|(_, sequence)| sequence.id == id);
                if let Some(name) = named.map(|(name, _)| *name) {
                    if let Some(mut sequence) = self.remove(name) {
                        sequence.cancel(Instant::now());
                    }
                    self.publish();
                }
            }
        }
    }

    fn start(&mut self, start: Start) {
        let name = SequenceId(self.next);
        self.next += 1;
        let new = Sequence::new(start, &self.codec, name, self.state.context_tokens, Instant::now());
        let Some((mut sequence, admission)) = new else { return };
        if let Err(error) = self.scheduler.add(admission) {
            return sequence.fail(GenerateError::Invalid(error.to_string()));
        }
        sequence.started();
        self.cache.open(name);
        self.sequences.insert(name, sequence);
        self.publish();
    }

    /// Forgets a sequence everywhere.
    pub(super) fn remove(&mut self, name: SequenceId) -> Option<Sequence> {
        self.scheduler.remove(name);
        self.cache.close(name);
        self.sequences.remove(&name)
    }

    /// Ends every request with an error.
    pub(super) fn fail_all(&mut self, reason: &str) {
        let names: Vec<SequenceId> = self.sequences.keys().copied().collect();
        for name in names {
            if let Some(mut sequence) = self.remove(name) {
                sequence.fail(GenerateError::Internal(reason.to_owned()));
            }
        }
    }

    fn publish(&self) {
        self.state.publish(self.scheduler.running(), self.scheduler.waiting(), self.cache.bytes());
    }
}
