//! What callers tell the engine thread, and what it tells everyone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use super::exporting::Export;
use super::importing::Import;
use super::preparing::OutputMarkup;
use crate::api::{EngineState, EventSink};
use crate::grammar::Compiled;
use crate::request::{AnswerOptions, Limits, SamplingParams, Turn};
use crate::schedule::Scheduler;

/// A message to the engine thread.
pub(super) enum Command {
    /// Begin a request.
    Start(Box<Start>),
    /// End the request of this id.
    Cancel(String),
    /// Say how many leading blocks of these tokens are cached.
    Cached(Vec<u32>, SyncSender<usize>),
    /// Take a prefix over.
    Import(Import),
}

/// A request whose prompt is tokens.
pub(super) struct Start {
    pub(super) id: String,
    pub(super) prompt: Vec<u32>,
    /// The output continues a text rather than answering a conversation.
    pub(super) continues: bool,
    pub(super) sampling: SamplingParams,
    pub(super) limits: Limits,
    pub(super) turn: Turn,
    pub(super) options: AnswerOptions,
    /// Compiled.
    pub(super) grammar: Option<Compiled>,
    /// The token after which the grammar begins; at once where there is none.
    pub(super) grammar_after: Option<u32>,
    pub(super) markup: Option<OutputMarkup>,
    pub(super) events: EventSink,
    /// Of the first choice's prompt.
    pub(super) export: Option<Export>,
}

/// The engine's state as anyone may read it at any time.
pub(super) struct SharedState {
    pub(super) context_tokens: u32,
    weight_bytes: u64,
    running: AtomicU32,
    waiting: AtomicU32,
    max_running: AtomicU32,
    kv_bytes: AtomicU64,
    kv_blocks: u32,
    kv_blocks_available: AtomicU32,
    preemptions: AtomicU64,
    steps: AtomicU64,
    tokens: AtomicU64,
    step_tokens: AtomicU32,
}

impl SharedState {
    pub(super) fn new(context_tokens: u32, weight_bytes: u64, kv_blocks: usize) -> Self {
        let (running, waiting, max_running, kv_bytes) = Default::default();
        let kv_blocks = count(kv_blocks);
        Self {
            context_tokens,
            weight_bytes,
            running,
            waiting,
            max_running,
            kv_bytes,
            kv_blocks,
            kv_blocks_available: AtomicU32::new(kv_blocks),
            preemptions: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            step_tokens: AtomicU32::new(0),
        }
    }

    /// A step of so many tokens is to be computed; it has been when what is returned is dropped.
    pub(super) fn step(self: &Arc<Self>, tokens: usize) -> UnderWay {
        let tokens = count(tokens);
        self.step_tokens.fetch_add(tokens, Ordering::Relaxed);
        UnderWay { state: Arc::clone(self), tokens }
    }

    pub(super) fn publish(&self, scheduler: &Scheduler, kv_bytes: u64) {
        self.max_running.store(count(scheduler.max_sequences()), Ordering::Relaxed);
        self.running.store(count(scheduler.running()), Ordering::Relaxed);
        self.waiting.store(count(scheduler.waiting()), Ordering::Relaxed);
        self.kv_blocks_available.store(count(scheduler.store().available()), Ordering::Relaxed);
        self.preemptions.store(scheduler.preempted(), Ordering::Relaxed);
        self.kv_bytes.store(kv_bytes, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> EngineState {
        EngineState {
            running: self.running.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            max_running: self.max_running.load(Ordering::Relaxed),
            kv_bytes: self.kv_bytes.load(Ordering::Relaxed),
            kv_blocks: self.kv_blocks,
            kv_blocks_available: self.kv_blocks_available.load(Ordering::Relaxed),
            preemptions: self.preemptions.load(Ordering::Relaxed),
            context_tokens: self.context_tokens,
            weight_bytes: self.weight_bytes,
            steps: self.steps.load(Ordering::Relaxed),
            tokens: self.tokens.load(Ordering::Relaxed),
            step_tokens: self.step_tokens.load(Ordering::Relaxed),
        }
    }
}

/// A step that is being computed. One that fails or panics has ended too.
pub(super) struct UnderWay {
    state: Arc<SharedState>,
    tokens: u32,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.state.steps.fetch_add(1, Ordering::Relaxed);
        self.state.tokens.fetch_add(self.tokens.into(), Ordering::Relaxed);
        self.state.step_tokens.fetch_sub(self.tokens, Ordering::Relaxed);
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
