//! What callers tell the engine thread, and what it tells everyone.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::api::{EngineState, EventSink};
use crate::request::{Limits, SamplingParams};

/// A message to the engine thread.
pub(super) enum Command {
    /// Begin a request.
    Start(Box<Start>),
    /// End the request of this id.
    Cancel(String),
}

/// A request whose prompt is tokens.
pub(super) struct Start {
    pub(super) id: String,
    pub(super) prompt: Vec<u32>,
    /// The output continues a text rather than answering a conversation.
    pub(super) continues: bool,
    pub(super) sampling: SamplingParams,
    pub(super) limits: Limits,
    pub(super) events: EventSink,
}

/// The engine's state as anyone may read it at any time.
pub(super) struct SharedState {
    pub(super) context_tokens: u32,
    weight_bytes: u64,
    running: AtomicU32,
    waiting: AtomicU32,
    kv_bytes: AtomicU64,
}

impl SharedState {
    pub(super) fn new(context_tokens: u32, weight_bytes: u64) -> Self {
        let (running, waiting, kv_bytes) = Default::default();
        Self { context_tokens, weight_bytes, running, waiting, kv_bytes }
    }

    pub(super) fn publish(&self, running: usize, waiting: usize, kv_bytes: u64) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.running.store(count(running), Ordering::Relaxed);
        self.waiting.store(count(waiting), Ordering::Relaxed);
        self.kv_bytes.store(kv_bytes, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> EngineState {
        EngineState {
            running: self.running.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            kv_bytes: self.kv_bytes.load(Ordering::Relaxed),
            context_tokens: self.context_tokens,
            weight_bytes: self.weight_bytes,
        }
    }
}
