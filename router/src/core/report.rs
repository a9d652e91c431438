//! What a node last said about itself, reduced to what choosing needs.
//!
//! Knows nothing of time or of other nodes; `fleet` keeps the latest report of each.

use std::collections::{BTreeMap, BTreeSet};

use mlxcel_protocol::v1::{ModelStatus, NodeState, WorkerHealth};

/// One node's state, reduced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Takes no new requests.
    pub(crate) draining: bool,
    /// Models some worker holds or is loading.
    pub(crate) models: BTreeMap<String, Holding>,
    /// Models the node could load from its store.
    pub(crate) loadable: BTreeSet<String>,
    /// Workers able to run requests.
    pub(crate) ready_workers: u32,
    /// Sequences running or waiting, over all models and workers.
    pub(crate) queued: u32,
}

/// How one model stands on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Workers that can serve it now.
    pub(crate) ready_on: u32,
    /// Workers still loading it.
    pub(crate) loading_on: u32,
    /// Sequences running.
    pub(crate) running: u32,
    /// Sequences waiting for room.
    pub(crate) waiting: u32,
    /// Longest prompt plus output, in tokens; 0 when unknown.
    pub(crate) context_tokens: u32,
}

impl Report {
    /// Reduces the wire's state. Models on workers that are not ready are known, for they will be
    /// loaded again, and do not count: nothing can be sent to them.
    pub(crate) fn new(state: &NodeState) -> Self {
        let mut report = Self {
            draining: state.draining,
            loadable: state.loadable_models.iter().cloned().collect(),
            ..Self::default()
        };
        for worker in &state.workers {
            let ready = worker.health() == WorkerHealth::Ready;
            report.ready_workers += u32::from(ready);
            for model in &worker.models {
                let holding = report.models.entry(model.name.clone()).or_default();
                if !ready {
                    continue;
                }
                match model.status() {
                    ModelStatus::Ready => holding.ready_on += 1,
                    ModelStatus::Loading => holding.loading_on += 1,
                    ModelStatus::Unspecified => {}
                }
                holding.running = holding.running.saturating_add(model.running);
                holding.waiting = holding.waiting.saturating_add(model.waiting);
                holding.context_tokens = holding.context_tokens.max(model.context_tokens);
                report.queued = report.queued.saturating_add(model.running).saturating_add(model.waiting);
            }
        }
        report
    }

    /// Whether requests for `model` can be sent.
    pub(crate) fn serves(&self, model: &str) -> bool {
        !self.draining && self.models.get(model).is_some_and(|m| m.ready_on > 0)
    }

    /// Whether `model` is on its way.
    pub(crate) fn is_loading(&self, model: &str) -> bool {
        !self.draining && self.models.get(model).is_some_and(|m| m.loading_on > 0)
    }

    /// Whether the node could be told to load `model`.
    pub(crate) fn could_load(&self, model: &str) -> bool {
        !self.draining && self.ready_workers > 0 && self.loadable.contains(model)
    }

    /// Whether the node has anything to do with `model`.
    pub(crate) fn knows(&self, model: &str) -> bool {
        self.models.contains_key(model) || self.loadable.contains(model)
    }
}
