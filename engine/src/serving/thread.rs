//! The engine's thread, and the handle through which everyone else talks to it.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::command::{Command, SharedState, Start};
use super::compiling::Compiling;
use super::delivery::{Delivery, TraceRows, Update};
use super::drafter::Drafter;
use super::executor::StepExecutor;
use super::exporting::Export;
use super::importing::Importing;
use super::opening::Opening;
use super::preparing::prepare;
use super::recorder::Recorder;
use super::sequence::Sequence;
use super::speculation::CostMeter;
use super::step::{Launched, advance, settle};
use super::stream::Ending;
use crate::api::{Engine, EngineState, EventSink};
use crate::event::{Event, GenerateError};
use crate::request::Request;
use crate::schedule::{Scheduler, SequenceId};
use crate::text::TextCodec;
use crate::transfer::{CacheDescription, PrefixDoor};

/// Talks to the engine's thread; ends it when dropped.
pub(super) struct EngineHandle {
    /// Taken when the handle is dropped, which tells the thread to end.
    commands: Mutex<Option<Sender<Command>>>,
    codec: Arc<TextCodec>,
    compiling: Compiling,
    state: Arc<SharedState>,
    /// Of the cache, where prefixes can be moved in and out.
    pub(super) cache: Option<Arc<CacheDescription>>,
    thread: Option<JoinHandle<()>>,
}

impl EngineHandle {
    pub(super) fn new(commands: Sender<Command>, codec: Arc<TextCodec>, state: Arc<SharedState>) -> Self {
        let (compiling, cache, thread) = (Compiling::new(), None, None);
        Self { commands: Mutex::new(Some(commands)), codec, compiling, state, cache, thread }
    }

    /// Lets prefixes be moved in and out of a cache that can be described.
    pub(super) fn with_cache(mut self, cache: Option<CacheDescription>) -> Self {
        self.cache = cache.map(Arc::new);
        self
    }

    /// Makes dropping the handle wait for the thread.
    pub(super) fn joined(mut self, thread: JoinHandle<()>) -> Self {
        self.thread = Some(thread);
        self
    }

    pub(super) fn codec(&self) -> &TextCodec {
        &self.codec
    }

    /// Hands a request over that has no grammar to be compiled.
    pub(super) fn begin(&self, start: Start) {
        if let Err(Command::Start(mut start)) = self.send(Command::Start(Box::new(start))) {
            (start.events)(Event::Failed(GenerateError::Internal(GONE.to_owned())));
        }
    }

    /// Gives the command back when the thread is gone.
    pub(super) fn send(&self, command: Command) -> Result<(), Command> {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        match commands.as_ref() {
            Some(sender) => sender.send(command).map_err(|error| error.0),
            None => Err(command),
        }
    }
}

impl Engine for EngineHandle {
    fn submit(&self, request: Request, events: EventSink) {
        let (start, grammar) = match prepare(request, events, &self.codec) {
            Ok(prepared) => prepared,
            Err((error, mut events)) => return events(Event::Failed(error)),
        };
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (grammar, commands) {
            (Some(grammar), Some(commands)) => self.compiling.submit(start, grammar, &self.codec, commands),
            _ => {
                self.begin(start);
            }
        }
    }

    fn cancel(&self, id: &str) {
        if !self.compiling.cancel(id) {
            // An engine that has ended has nothing left to cancel.
            drop(self.send(Command::Cancel(id.to_owned())));
        }
    }

    fn state(&self) -> EngineState {
        self.state.read()
    }

    fn prefixes(&self) -> Option<&dyn PrefixDoor> {
        self.cache.is_some().then_some(self)
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.compiling.end();
        if let Some(thread) = self.thread.take() {
            // The thread catches its own panics; there is nothing to learn from the result.
            drop(thread.join());
        }
    }
}

/// What the thread owns.
pub(super) struct EngineThread {
    pub(super) executor: Box<dyn StepExecutor>,
    pub(super) scheduler: Scheduler,
    pub(super) sequences: BTreeMap<SequenceId, Sequence>,
    /// Requests of which only the first choice has been queued, by its name.
    pub(super) openings: BTreeMap<SequenceId, Opening>,
    /// Sequences whose prompts' blocks are given away.
    pub(super) exports: BTreeMap<SequenceId, Export>,
    /// Prefixes being taken over, the first to be done first.
    pub(super) imports: VecDeque<Importing>,
    /// The steps under way, the first to be done first.
    pub(super) launched: VecDeque<Launched>,
    /// Most tokens to guess ahead from a sequence's own text.
    pub(super) lookup_tokens: usize,
    /// A model that guesses.
    pub(super) drafter: Option<Drafter>,
    pub(super) meter: CostMeter,
    pub(super) delivery: Delivery,
    pub(super) recorder: Recorder,
    pub(super) codec: Arc<TextCodec>,
    commands: Receiver<Command>,
    pub(super) state: Arc<SharedState>,
    next: u64,
    /// Time zero of the scheduler.
    begin: Instant,
}

impl EngineThread {
    /// What a thread needs to begin; its delivery thread runs from here on.
    ///
    /// # Errors
    /// The operating system gives no thread for delivery.
    pub(super) fn new(
        (executor, codec): (Box<dyn StepExecutor>, Arc<TextCodec>),
        scheduler: Scheduler,
        commands: Receiver<Command>,
        state: Arc<SharedState>,
        trace: Option<TraceRows>,
    ) -> std::io::Result<Self> {
        let recorder = Recorder::new(trace.is_some());
        Ok(Self {
            executor,
            scheduler,
            sequences: BTreeMap::new(),
            openings: BTreeMap::new(),
            exports: BTreeMap::new(),
            imports: VecDeque::new(),
            launched: VecDeque::new(),
            lookup_tokens: 0,
            drafter: None,
            meter: CostMeter::new(),
            delivery: Delivery::start(trace)?,
            recorder,
            codec,
            commands,
            state,
            next: 0,
            begin: Instant::now(),
        })
    }

    /// Has sequences guess at most `lookup_tokens` tokens ahead from their text, and a draft model for them.
    pub(super) fn guessing(self, lookup_tokens: usize, drafter: Option<Drafter>) -> Self {
        Self { lookup_tokens, drafter, ..self }
    }

    /// Works until every handle is gone, then cancels what is left.
    pub(super) fn run(mut self) {
        while self.take_commands() {
            self.expire();
            self.go_on_importing();
            let step = catch_unwind(AssertUnwindSafe(|| advance(&mut self)));
            if step.is_err() {
                self.end_all(&|| {
                    let reason = "the engine panicked during a step; this is a defect in mlxcel";
                    Ending::Failed(GenerateError::Internal(reason.to_owned()))
                });
            }
            // Before anyone hears of an end, so that the state shows it.
            self.publish();
            self.flush();
        }
        settle(&mut self);
        self.end_imports();
        self.end_all(&|| Ending::Cancelled);
    }

    /// Handles what has arrived, waiting when there is nothing else to do; false when all handles are gone.
    fn take_commands(&mut self) -> bool {
        for name in self.delivery.stopped() {
            self.remove(name);
        }
        if self.sequences.is_empty() && self.imports.is_empty() {
            settle(self);
            self.publish();
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
                for name in self.named(|sequence| sequence.id == id) {
                    self.end(name, Ending::Cancelled);
                }
            }
            // Who asks may have gone.
            Command::Cached(tokens, reply) => drop(reply.send(self.scheduler.cached(&tokens))),
            Command::Import(import) => self.begin_import(import),
        }
    }

    /// The sequences of which `which` is true.
    fn named(&self, which: impl Fn(&Sequence) -> bool) -> Vec<SequenceId> {
        self.sequences.iter().filter(|(_, sequence)| which(sequence)).map(|(name, _)| *name).collect()
    }

    /// A name no sequence has had.
    pub(super) fn new_name(&mut self) -> SequenceId {
        self.next += 1;
        SequenceId(self.next)
    }

    /// Longest prompt plus output.
    pub(super) fn context_tokens(&self) -> u32 {
        self.state.context_tokens
    }

    /// The scheduler's time.
    pub(super) fn since_begin(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Ends the requests whose deadline has passed.
    fn expire(&mut self) {
        for name in self.scheduler.expire(self.since_begin()) {
            if let Some(ending) = self.sequences.get(&name).map(Sequence::expired) {
                self.end(name, ending);
            }
        }
    }

    /// Forgets a sequence everywhere but in its request's stream.
    pub(super) fn remove(&mut self, name: SequenceId) {
        self.scheduler.remove(name);
        self.sequences.remove(&name);
        self.exports.remove(&name);
    }

    /// Ends a sequence that has not ended; a failure ends the other choices of its request with it.
    pub(super) fn end(&mut self, name: SequenceId, ending: Ending) {
        let Some(answer) = self.sequences.get(&name).map(|sequence| sequence.answer.clone()) else { return };
        self.remove(name);
        if let Some(opening) = self.openings.remove(&name) {
            answer.forgo(opening.start.options.choices - 1);
        }
        if matches!(ending, Ending::Failed(_)) {
            for sibling in self.named(|sequence| sequence.answer.is_of(&answer)) {
                self.remove(sibling);
                self.delivery.push(sibling, Instant::now(), Update::End(ending.clone()));
            }
        }
        self.delivery.push(name, Instant::now(), Update::End(ending));
    }

    fn end_all(&mut self, ending: &dyn Fn() -> Ending) {
        let names: Vec<SequenceId> = self.sequences.keys().copied().collect();
        for name in names {
            self.end(name, ending());
        }
    }

    /// Hands over what clients and the trace are to be told.
    fn flush(&mut self) {
        let (scheduler, store) = (&self.scheduler, self.scheduler.store());
        self.recorder.load(|| {
            let (running, waiting, blocks) = (scheduler.running(), scheduler.waiting(), store.available());
            vec![("running", running as u64), ("waiting", waiting as u64), ("free_blocks", blocks as u64)]
        });
        let notes = self.recorder.take();
        self.delivery.flush(notes);
    }

    fn publish(&self) {
        let store = self.scheduler.store();
        let held = (store.total() - store.available()) as u64;
        self.state.publish(&self.scheduler, held * self.executor.kv_block_bytes());
    }
}

/// What is said to who asks an engine that has ended.
pub(super) const GONE: &str = "the engine has ended; load the model again";
