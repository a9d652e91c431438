//! The worker's signs of life: what its engines have done, and whether its own thread turns.
//!
//! A thread of its own says so, whatever the others do; it keeps no engine alive. What to make of it is the node's
//! business (`supervisor::pulse`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use mlxcel_engine::Engine;
use mlxcel_protocol::v1::{EngineBeat, WorkerBeat, WorkerEvent, worker_event};

use super::host::drop_elsewhere;
use super::outbox::Outbox;

/// What beats tell of. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Heart {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    engines: Vec<(String, Weak<dyn Engine>)>,
    /// Since when a command is being obeyed.
    obeying: Option<Instant>,
}

impl Heart {
    /// Begins to beat, until every clone of what is returned is dropped.
    pub(super) fn start(outbox: Outbox) -> Self {
        let heart = Self::default();
        let shared = Arc::downgrade(&heart.shared);
        thread::spawn(move || {
            while let Some(shared) = shared.upgrade() {
                let beat = Self { shared }.beat();
                outbox.push(WorkerEvent { kind: Some(worker_event::Kind::Beat(beat)) });
                thread::sleep(INTERVAL);
            }
        });
        heart
    }

    /// Tells of this engine from now on, as long as it lives.
    pub(super) fn watch(&self, model: &str, engine: &Arc<dyn Engine>) {
        let mut shared = self.lock();
        shared.engines.retain(|(name, engine)| name != model && engine.strong_count() > 0);
        shared.engines.push((model.to_owned(), Arc::downgrade(engine)));
    }

    /// A command is about to be obeyed, or has been.
    pub(super) fn obeys(&self, begins: bool) {
        self.lock().obeying = begins.then(Instant::now);
    }

    fn beat(&self) -> WorkerBeat {
        let (engines, obeying) = {
            let shared = self.lock();
            let living =
                |(name, engine): &(String, Weak<dyn Engine>)| Some((name.clone(), engine.upgrade()?));
            (shared.engines.iter().filter_map(living).collect::<Vec<_>>(), shared.obeying)
        };
        let engines = engines.into_iter().map(|(model, engine)| {
            let state = engine.state();
            // It may have become the last owner meanwhile.
            drop_elsewhere(engine);
            EngineBeat { model, steps: state.steps, tokens: state.tokens, step_tokens: state.step_tokens }
        });
        let taken = obeying.map_or(Duration::ZERO, |since| since.elapsed());
        let command_micros = u64::try_from(taken.as_micros()).unwrap_or(u64::MAX);
        WorkerBeat { engines: engines.collect(), command_micros }
    }

    /// A panic elsewhere leaves plain data behind.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Several in the time after which a silent worker is taken for stalled.
const INTERVAL: Duration = Duration::from_millis(150);
