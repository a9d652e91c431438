//! The thread that compiles grammars, so that neither callers nor steps wait for it.
//!
//! A request with a grammar goes through here before it reaches the step thread; one that is cancelled meanwhile
//! never gets there. Knows no tokens.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::command::{Command, Start};
use crate::event::{Event, Finish, FinishReason, GenerateError};
use crate::grammar::GrammarCompiler;
use crate::request::Grammar;
use crate::text::TextCodec;

type Job = (Box<Start>, Grammar);

/// Requests whose grammars are being compiled, and whether each has been cancelled.
type Waiting = Arc<Mutex<HashMap<String, bool>>>;

/// The way to the thread, which is started by the first grammar and ends with `end`.
pub(super) struct Compiling {
    jobs: Mutex<Option<Sender<Job>>>,
    waiting: Waiting,
}

impl Compiling {
    pub(super) fn new() -> Self {
        Self { jobs: Mutex::new(None), waiting: Waiting::default() }
    }

    /// Has a request's grammar compiled and then sends the request to `commands`.
    pub(super) fn submit(
        &self,
        start: Start,
        grammar: Grammar,
        codec: &Arc<TextCodec>,
        commands: Sender<Command>,
    ) {
        locked(&self.waiting).insert(start.id.clone(), false);
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = jobs.get_or_insert_with(|| {
            let (sender, inbox) = channel();
            let (codec, waiting) = (Arc::clone(codec), Arc::clone(&self.waiting));
            let thread = std::thread::Builder::new().name("grammars".to_owned());
            // Where the system gives no thread, sending fails below.
            drop(thread.spawn(move || work(&inbox, &mut GrammarCompiler::new(codec), &waiting, &commands)));
            sender
        });
        if let Err(refused) = sender.send((Box::new(start), grammar)) {
            let (mut start, _) = refused.0;
            locked(&self.waiting).remove(&start.id);
            let reason = "there is no thread to compile the grammar on".to_owned();
            (start.events)(Event::Failed(GenerateError::Internal(reason)));
        }
    }

    /// Ends the thread when it has done what it has been given.
    pub(super) fn end(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Cancels a request that is still here; false when it is not.
    pub(super) fn cancel(&self, id: &str) -> bool {
        let mut waiting = locked(&self.waiting);
        waiting.get_mut(id).map(|cancelled| *cancelled = true).is_some()
    }
}

fn work(
    inbox: &Receiver<Job>,
    compiler: &mut GrammarCompiler,
    waiting: &Waiting,
    commands: &Sender<Command>,
) {
    for (mut start, grammar) in inbox {
        let compiled = compiler.compile(&grammar);
        // Held until the request has been passed on, so that a cancellation finds it here or there.
        let mut waiting = locked(waiting);
        let cancelled = waiting.remove(&start.id).unwrap_or(false);
        match compiled {
            _ if cancelled => {
                let finish = nothing(&start);
                (start.events)(Event::Finished(finish));
            }
            Err(error) => (start.events)(Event::Failed(error)),
            Ok(compiled) => {
                start.grammar = Some(compiled);
                if let Err(refused) = commands.send(Command::Start(start))
                    && let Command::Start(mut start) = refused.0
                {
                    (start.events)(Event::Failed(GenerateError::Internal("the engine has ended".to_owned())));
                }
            }
        }
    }
}

/// The end of a request that was cancelled before it began.
fn nothing(start: &Start) -> Finish {
    Finish {
        reason: FinishReason::Cancelled,
        prompt_tokens: u32::try_from(start.prompt.len()).unwrap_or(u32::MAX),
        cached_tokens: 0,
        completion_tokens: 0,
        prefill: Duration::ZERO,
        decode: Duration::ZERO,
    }
}

fn locked(waiting: &Waiting) -> MutexGuard<'_, HashMap<String, bool>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
