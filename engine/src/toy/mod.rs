//! A deterministic engine without a model, for tests of nodes and routers.
//!
//! Each token follows from the tokens before it by arithmetic alone, on the engine's own thread
//! and at a pace the options set. Shows nothing of real engines but their contract: requests,
//! limits, cancellation, queueing, and, when asked for, a crash or a hang.

mod language;
mod sequence;
mod worker;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::{Engine, EngineState, Event, EventSink, GenerateError, Request};

use self::worker::{Command, Worker};

/// How a [`ToyEngine`] behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToyOptions {
    /// Time a generated token takes; sequences do not slow each other down.
    pub token_delay: Duration,
    /// Time each token of a prompt takes before the first generated one.
    pub prefill_delay_per_token: Duration,
    /// Most sequences running; others wait their turn.
    pub max_sequences: usize,
    /// Tokens of an answer, without its end-of-sequence token, when no limit is smaller.
    pub tokens: u32,
    /// Longest prompt plus output, in tokens.
    pub context_tokens: u32,
    /// A prompt containing this text aborts the process when it is admitted.
    pub crash_on: Option<String>,
    /// A prompt containing this text stops the engine's thread for good when it is admitted.
    pub hang_on: Option<String>,
}

impl Default for ToyOptions {
    /// Sixteen tokens at once, eight sequences, no faults.
    fn default() -> Self {
        Self {
            token_delay: Duration::ZERO,
            prefill_delay_per_token: Duration::ZERO,
            max_sequences: 8,
            tokens: 16,
            context_tokens: 8192,
            crash_on: None,
            hang_on: None,
        }
    }
}

/// An [`Engine`] whose answers depend on the prompt only.
///
/// A prompt of text is the bytes of the text, one token each (ids 0 to 255); a conversation is a
/// line of `role: content` for each message. Id 256 ends an answer; higher ids are words. As with
/// a real model, the next token follows from all before it: a prompt of an earlier prompt's tokens
/// and some of its answer's is answered with the rest of that answer.
///
/// Sampling parameters are checked and otherwise ignored; so are priorities and clients: requests run in the order
/// they came, and end at their deadlines. Dropping the engine ends every request
/// with [`GenerateError::Internal`]; the thread ends by itself.
#[derive(Debug)]
pub struct ToyEngine {
    commands: mpsc::Sender<Command>,
    state: Arc<Mutex<EngineState>>,
}

impl ToyEngine {
    /// Starts the engine's thread.
    ///
    /// # Errors
    /// The operating system does not give a thread.
    pub fn start(options: ToyOptions) -> std::io::Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let idle = EngineState {
            context_tokens: options.context_tokens,
            max_running: u32::try_from(options.max_sequences).unwrap_or(u32::MAX),
            ..EngineState::default()
        };
        let state = Arc::new(Mutex::new(idle));
        let worker = Worker::new(options, inbox, Arc::clone(&state));
        thread::Builder::new().name("toy-engine".into()).spawn(move || worker.run())?;
        Ok(Self { commands, state })
    }
}

impl Engine for ToyEngine {
    fn submit(&self, request: Request, events: EventSink) {
        if let Err(mpsc::SendError(Command::Submit(_, mut events))) =
            self.commands.send(Command::Submit(Box::new(request), events))
        {
            let message = "the toy engine's thread has ended".to_owned();
            events(Event::Failed(GenerateError::Internal(message)));
        }
    }

    fn cancel(&self, id: &str) {
        // A thread that has ended has no requests left to cancel.
        let _ = self.commands.send(Command::Cancel(id.to_owned()));
    }

    fn state(&self) -> EngineState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
