//! The toy engine's thread: takes commands, admits requests and steps sequences when due.
//!
//! What a step does is `sequence`'s; this decides only whose turn it is.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ToyOptions;
use super::sequence::{Prepared, Sequence};
use crate::{EngineState, Event, EventSink, Finish, FinishReason, GenerateError, Request};

pub(super) enum Command {
    Submit(Box<Request>, EventSink),
    Cancel(String),
}

pub(super) struct Worker {
    options: ToyOptions,
    inbox: Receiver<Command>,
    state: Arc<Mutex<EngineState>>,
    running: Vec<Sequence>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    request: Request,
    prepared: Prepared,
    events: EventSink,
}

impl Worker {
    pub(super) fn new(options: ToyOptions, inbox: Receiver<Command>, state: Arc<Mutex<EngineState>>) -> Self {
        Self { options, inbox, state, running: Vec::new(), waiting: VecDeque::new() }
    }

    /// Works until the engine is dropped.
    pub(super) fn run(mut self) {
        while self.take_commands() {
            self.expire();
            self.admit();
            self.publish();
            self.step();
        }
        let gone = || GenerateError::Internal("the toy engine has been dropped".into());
        self.running.iter_mut().for_each(|sequence| sequence.fail(gone()));
        self.waiting.iter_mut().for_each(|waiting| (waiting.events)(Event::Failed(gone())));
    }

    /// Waits for commands or the next due step and takes every command there is; false when the
    /// engine is gone.
    fn take_commands(&mut self) -> bool {
        let steps = self.running.iter().map(|sequence| sequence.next_at);
        let deadlines = self.running.iter().filter_map(|sequence| sequence.deadline);
        let waiting = self.waiting.iter().filter_map(|waiting| waiting.prepared.deadline);
        let due = steps.chain(deadlines).chain(waiting).min();
        let room = self.running.len() < self.options.max_sequences && !self.waiting.is_empty();
        let first = match due {
            None if !room => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            due => {
                let wait = due.map_or(Duration::ZERO, |due| due - Instant::now().min(due));
                self.inbox.recv_timeout(if room { Duration::ZERO } else { wait })
            }
        };
        match first {
            Ok(command) => self.obey(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        loop {
            match self.inbox.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(request, events) => self.submit(*request, events),
            Command::Cancel(id) => self.cancel(&id),
        }
    }

    fn submit(&mut self, request: Request, mut events: EventSink) {
        let same = |id: &str| id == request.id;
        let taken = self.running.iter().any(|sequence| same(&sequence.id))
            || self.waiting.iter().any(|waiting| same(&waiting.request.id));
        let prepared = match taken {
            true => Err(GenerateError::Invalid(format!(
                "request ids must be unique among requests in flight, got {}",
                request.id
            ))),
            false => Prepared::new(&request, &self.options, Instant::now()),
        };
        match prepared {
            Ok(prepared) => self.waiting.push_back(Waiting { request, prepared, events }),
            Err(error) => events(Event::Failed(error)),
        }
    }

    fn cancel(&mut self, id: &str) {
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            self.end(index, FinishReason::Cancelled);
        }
        if let Some(index) = self.waiting.iter().position(|waiting| waiting.request.id == id)
            && let Some(mut waiting) = self.waiting.remove(index)
        {
            self.publish();
            (waiting.events)(Event::Finished(Finish {
                reason: FinishReason::Cancelled,
                prompt_tokens: waiting.prepared.tokens.len() as u32,
                cached_tokens: 0,
                completion_tokens: 0,
                prefill: Duration::ZERO,
                decode: Duration::ZERO,
            }));
        }
    }

    /// Ends what has taken too long, begun or not.
    fn expire(&mut self) {
        let now = Instant::now();
        let past = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        let running: Vec<_> = self.running.extract_if(.., |sequence| past(sequence.deadline)).collect();
        let is_late = |waiting: &Waiting| past(waiting.prepared.deadline);
        let (late, waiting) = std::mem::take(&mut self.waiting).into_iter().partition::<Vec<_>, _>(is_late);
        self.waiting = waiting.into();
        if running.is_empty() && late.is_empty() {
            return;
        }
        self.publish();
        let error = || GenerateError::DeadlineExceeded("the deadline of the request has passed".into());
        running.into_iter().for_each(|mut sequence| sequence.fail(error()));
        late.into_iter().for_each(|mut waiting| (waiting.events)(Event::Failed(error())));
    }

    fn admit(&mut self) {
        while self.running.len() < self.options.max_sequences
            && let Some(waiting) = self.waiting.pop_front()
        {
            let Waiting { request, prepared, events } = waiting;
            let now = Instant::now();
            let sequence = Sequence::start(request, &prepared, events, &self.options, now);
            self.running.push(sequence);
            if prepared.contains(self.options.crash_on.as_ref()) {
                std::process::abort();
            }
            if prepared.contains(self.options.hang_on.as_ref()) {
                self.publish();
                loop {
                    std::thread::park();
                }
            }
        }
    }

    fn step(&mut self) {
        let now = Instant::now();
        let due = self.running.iter().filter(|sequence| sequence.next_at <= now).count();
        if due > 0 {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.steps += 1;
            state.tokens += due as u64;
        }
        let mut index = 0;
        while let Some(sequence) = self.running.get_mut(index) {
            let due = sequence.next_at <= now;
            match due.then(|| sequence.step(&self.options, now)).flatten() {
                Some(reason) => self.end(index, reason),
                None => index += 1,
            }
        }
    }

    /// Whoever hears that a request has ended sees a state without it.
    fn end(&mut self, index: usize, reason: FinishReason) {
        let sequence = self.running.remove(index);
        self.publish();
        sequence.finish(reason, Instant::now());
    }

    fn publish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running = self.running.len() as u32;
        state.waiting = self.waiting.len() as u32;
        state.step_tokens = state.running;
    }
}
