//! What a node last said about itself, reduced to what choosing needs.
//!
//! Knows nothing of time or of other nodes; `fleet` keeps the latest report of each.

use std::collections::{BTreeMap, BTreeSet};

use mlxcel_protocol::v1::{
    DeviceKind, ModelSize, ModelStatus, NodeInfo, NodeState, Role, WorkerHealth, WorkerState,
};

/// One node's state, reduced.
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// Whether its devices may be ranks of replicas.
    pub(crate) can_rank: bool,
    /// How large the models of its store are.
    pub(crate) sizes: BTreeMap<String, Sizes>,
    /// Its workers.
    pub(crate) workers: Vec<WorkerReport>,
}

/// How large the parts of a model are.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sizes {
    pub(crate) layers: usize,
    pub(crate) layer_bytes: u64,
    pub(crate) layer_operations: f64,
    pub(crate) embedding_bytes: u64,
    pub(crate) head_bytes: u64,
    pub(crate) hidden_size: usize,
    pub(crate) kv_bytes: u64,
    pub(crate) heads: usize,
    pub(crate) max_context: usize,
    /// Of all weights.
    pub(crate) weight_bytes: u64,
}

/// A device with its worker.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct WorkerReport {
    pub(crate) index: u32,
    pub(crate) ready: bool,
    pub(crate) is_cpu: bool,
    pub(crate) memory_bytes: u64,
    /// Bytes of weights that it holds of each model.
    pub(crate) weight_bytes: BTreeMap<String, u64>,
    /// Bytes a second, and operations; 0 where not measured.
    pub(crate) bandwidth: f64,
    pub(crate) operations: f64,
}

impl WorkerReport {
    /// Bytes that `model` may have. What is there of it already goes before it is loaded anew.
    pub(crate) fn bytes_for(&self, model: &str) -> u64 {
        let others = self.weight_bytes.iter().filter(|(name, _)| *name != model);
        self.memory_bytes.saturating_sub(others.map(|(_, bytes)| *bytes).sum())
    }
}

/// Most sequences at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slots {
    /// Some worker does not say.
    Unknown,
    Known(u32),
}

impl Default for Slots {
    fn default() -> Self {
        Self::Known(0)
    }
}

impl Slots {
    /// With those of another worker.
    fn and(self, more: u32) -> Self {
        match (self, more) {
            (Self::Known(slots), 1..) => Self::Known(slots.saturating_add(more)),
            _ => Self::Unknown,
        }
    }

    /// How many requests are sent there: some more than run, so that one that ends is followed at once.
    pub(crate) fn room(self) -> u32 {
        match self {
            // Of none, nothing has been said: it has just been loaded.
            Self::Unknown | Self::Known(0) => u32::MAX,
            Self::Known(slots) => slots.saturating_add(slots.div_ceil(8)),
        }
    }
}

/// How one model stands on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Workers that can serve it, stalled ones included.
    pub(crate) ready_on: u32,
    /// The devices of those of them that are stalled.
    pub(crate) stalled_on: Vec<u32>,
    /// Workers still loading it.
    pub(crate) loading_on: u32,
    /// Sequences running.
    pub(crate) running: u32,
    /// Sequences waiting for room.
    pub(crate) waiting: u32,
    /// Longest prompt plus output, in tokens; 0 when unknown.
    pub(crate) context_tokens: u32,
    /// Most sequences that its workers run at once.
    pub(crate) slots: Slots,
}

impl Report {
    /// Reduces the wire's state. Models on workers that are not ready are known, for they will be
    /// loaded again, and do not count: nothing can be sent to them.
    pub(crate) fn new(state: &NodeState) -> Self {
        let mut report = Self {
            draining: state.draining,
            loadable: state.loadable_models.iter().cloned().collect(),
            can_rank: state.node.as_ref().is_some_and(|node| node.roles().any(|role| role == Role::Rank)),
            sizes: state.model_sizes.iter().map(|size| (size.name.clone(), sizes(size))).collect(),
            ..Self::default()
        };
        for worker in &state.workers {
            let ready = worker.health() == WorkerHealth::Ready;
            report.workers.push(worker_report(worker, state.node.as_ref(), ready));
            report.ready_workers += u32::from(ready);
            for model in &worker.models {
                let holding = report.models.entry(model.name.clone()).or_default();
                if !ready {
                    continue;
                }
                match model.status() {
                    ModelStatus::Ready => {
                        holding.ready_on += 1;
                        holding.slots = holding.slots.and(model.max_running);
                        holding.stalled_on.extend(worker.stalled.then_some(worker.device_index));
                    }
                    ModelStatus::Loading => holding.loading_on += 1,
                    // Who leads the replica is asked.
                    ModelStatus::Following | ModelStatus::Unspecified => {}
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

    /// Whether some worker that has `model` goes on.
    pub(crate) fn flows(&self, model: &str) -> bool {
        self.models.get(model).is_some_and(|m| m.ready_on as usize > m.stalled_on.len())
    }

    /// Whether the worker of this device, or of any that has `model` where the device is not known, goes on.
    pub(crate) fn flows_on(&self, model: &str, device: Option<u32>) -> bool {
        match (device, self.models.get(model)) {
            (Some(device), Some(holding)) => !holding.stalled_on.contains(&device),
            _ => self.flows(model),
        }
    }

    /// Whether `model` is on its way.
    pub(crate) fn is_loading(&self, model: &str) -> bool {
        !self.draining && self.models.get(model).is_some_and(|m| m.loading_on > 0)
    }

    /// Whether the node could be told to load `model`.
    pub(crate) fn could_load(&self, model: &str) -> bool {
        !self.draining && self.ready_workers > 0 && self.loadable.contains(model)
    }

    /// Whether one of its devices could hold `model` alone, as far as is known.
    pub(crate) fn could_hold(&self, model: &str) -> bool {
        let Some(sizes) = self.sizes.get(model) else { return true };
        self.ready().any(|worker| worker.memory_bytes == 0 || worker.bytes_for(model) >= sizes.weight_bytes)
    }

    /// Its devices that can be given something.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &WorkerReport> {
        self.workers.iter().filter(|worker| worker.ready)
    }

    /// Whether the node has anything to do with `model`.
    pub(crate) fn knows(&self, model: &str) -> bool {
        self.models.contains_key(model) || self.loadable.contains(model)
    }
}

fn sizes(size: &ModelSize) -> Sizes {
    Sizes {
        layers: size.layers as usize,
        layer_bytes: size.layer_bytes,
        layer_operations: size.layer_operations,
        embedding_bytes: size.embedding_bytes,
        head_bytes: size.head_bytes,
        hidden_size: size.hidden_size as usize,
        kv_bytes: size.kv_bytes,
        heads: size.heads as usize,
        max_context: size.max_context as usize,
        weight_bytes: size.weight_bytes,
    }
}

fn worker_report(worker: &WorkerState, node: Option<&NodeInfo>, ready: bool) -> WorkerReport {
    let index = worker.device_index;
    let device = node.and_then(|node| node.devices.iter().find(|device| device.index == index));
    WorkerReport {
        index,
        ready,
        is_cpu: device.is_none_or(|device| device.kind() == DeviceKind::Cpu),
        memory_bytes: device.map_or(0, |device| device.memory_bytes),
        weight_bytes: worker.models.iter().map(|model| (model.name.clone(), model.weight_bytes)).collect(),
        bandwidth: device.map_or(0.0, |device| device.bandwidth_bytes_per_second),
        operations: device.map_or(0.0, |device| device.operations_per_second),
    }
}
