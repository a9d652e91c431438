//! The rules in virtual time: no socket, no clock, no task.

mod assembly;
mod attempt;
mod cost;
mod dispatch;
mod fleet;
mod hangs;
mod prefixes;
mod queue;
mod random;
mod simulation;
mod watchdog;

use std::time::{Duration, Instant};

use mlxcel_protocol::v1::{ModelState, ModelStatus, NodeState, WorkerHealth, WorkerState};

use super::attempt::Happening;
use super::fleet::{Fleet, NodeId};
use super::report::Report;

/// A fleet and a clock that only the test moves.
struct World {
    fleet: Fleet,
    now: Instant,
}

impl World {
    /// Nodes of these names, each with model "m" ready.
    fn with(nodes: &[&str]) -> Self {
        let mut world = Self { fleet: Fleet::default(), now: Instant::now() };
        for node in nodes {
            world.hears(node, ready(0));
        }
        world
    }

    fn hears(&mut self, node: &str, state: NodeState) {
        self.fleet.heard(&id(node), Report::new(&state), self.now);
    }

    fn loses(&mut self, node: &str) {
        self.fleet.lose(&id(node), self.now);
    }

    fn waits(&mut self, time: Duration) {
        self.now += time;
    }
}

fn started() -> Happening {
    Happening::Started { prompt_tokens: 8, device: Some(0) }
}

fn id(name: &str) -> NodeId {
    NodeId::new(name)
}

/// One ready worker with "m" ready and so many sequences on it.
fn ready(queued: u32) -> NodeState {
    with_model(ModelStatus::Ready, queued)
}

fn with_model(status: ModelStatus, queued: u32) -> NodeState {
    let model =
        ModelState { name: "m".into(), status: status.into(), running: queued, ..ModelState::default() };
    let workers = vec![WorkerState {
        health: WorkerHealth::Ready.into(),
        models: vec![model],
        ..WorkerState::default()
    }];
    NodeState { workers, ..NodeState::default() }
}

/// One ready worker with nothing loaded that could load "m".
fn loadable() -> NodeState {
    let mut state = ready(0);
    state.workers[0].models.clear();
    state.loadable_models = vec!["m".into()];
    state
}

fn draining() -> NodeState {
    NodeState { draining: true, ..ready(0) }
}
