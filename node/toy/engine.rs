//! An engine that does what its prompt says, for tests of everything around engines.
//!
//! `count N` generates N tokens, `slow N` one every 20 ms; `stall N` stops after N and never goes on; `segv` ends the process as a bug in
//! native code would, `hang` never comes back to its caller. Keeps the promises of `Engine` with one thread a request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mlxcel_engine::{
    AnswerOptions, Delta, Engine, EngineState, Event, EventSink, Finish, FinishReason, GenerateError, Prompt,
    Request,
};

/// Hears of every request that was cancelled.
pub(crate) type OnCancelled = Arc<dyn Fn(&str) + Send + Sync>;

pub(crate) struct ScriptEngine {
    running: Arc<Mutex<HashMap<String, Arc<AtomicBool>>>>,
    /// Tokens generated, each a step.
    steps: Arc<AtomicU64>,
    on_cancelled: OnCancelled,
}

impl ScriptEngine {
    pub(crate) fn new(on_cancelled: OnCancelled) -> Self {
        Self { running: Arc::default(), steps: Arc::default(), on_cancelled }
    }
}

impl Engine for ScriptEngine {
    fn submit(&self, request: Request, mut events: EventSink) {
        let Prompt::Text(script) = &request.prompt else {
            return events(Event::Failed(GenerateError::Invalid("only scripts run here".into())));
        };
        if request.answer != AnswerOptions::default() || request.limits.repetition.is_some() {
            let message = "a script is answered with one choice of plain text".to_owned();
            return events(Event::Failed(GenerateError::Invalid(message)));
        }
        let (verb, count) = script.split_once(' ').unwrap_or((script, "0"));
        let (pause, count) = match (verb, count.parse::<u32>()) {
            ("count", Ok(count)) => (Duration::ZERO, count),
            ("slow" | "stall", Ok(count)) => (Duration::from_millis(20), count),
            ("segv", _) => segv(),
            ("hang", _) => loop {
                thread::park();
            },
            _ => {
                let message = format!("no such script: {script}");
                return events(Event::Failed(GenerateError::Invalid(message)));
            }
        };
        let cancelled = Arc::new(AtomicBool::new(false));
        self.running.lock().expect("lock").insert(request.id.clone(), Arc::clone(&cancelled));
        let (running, on_cancelled) = (Arc::clone(&self.running), Arc::clone(&self.on_cancelled));
        let (steps, stalls) = (Arc::clone(&self.steps), verb == "stall");
        thread::spawn(move || {
            events(Event::Started { prompt_tokens: 1 });
            let mut done = 0;
            while done < count && !cancelled.load(Ordering::SeqCst) {
                thread::sleep(pause);
                let text = format!("{done} ");
                events(Event::Delta(Delta { text, token_ids: vec![done], ..Delta::default() }));
                done += 1;
                steps.fetch_add(1, Ordering::SeqCst);
            }
            if stalls {
                loop {
                    thread::park();
                }
            }
            running.lock().expect("lock").remove(&request.id);
            let reason = match done < count {
                true => FinishReason::Cancelled,
                false => FinishReason::Length,
            };
            if reason == FinishReason::Cancelled {
                on_cancelled(&request.id);
            }
            events(Event::Finished(Finish {
                reason,
                prompt_tokens: 1,
                cached_tokens: 0,
                completion_tokens: done,
                prefill: Duration::ZERO,
                decode: pause * done,
            }));
        });
    }

    fn cancel(&self, id: &str) {
        if let Some(cancelled) = self.running.lock().expect("lock").get(id) {
            cancelled.store(true, Ordering::SeqCst);
        }
    }

    fn state(&self) -> EngineState {
        let running = u32::try_from(self.running.lock().expect("lock").len()).expect("few");
        let steps = self.steps.load(Ordering::SeqCst);
        EngineState {
            running,
            steps,
            tokens: steps,
            step_tokens: running,
            context_tokens: 4096,
            weight_bytes: 7,
            ..EngineState::default()
        }
    }
}

fn segv() -> ! {
    // SAFETY: none: the write is to an address that is never mapped, and the fault it causes is
    // the point.
    unsafe { std::ptr::write_volatile(std::ptr::without_provenance_mut::<u8>(8), 1) };
    unreachable!("address 8 is not mapped")
}
