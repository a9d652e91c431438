//! A model that no device holds alone: which devices take which part of it.
//!
//! A pure function of the fleet. What is planned is `cluster_config::placement`'s; carrying it out is `relay`'s.

use std::collections::BTreeMap;
use std::ops::Range;

use mlxcel_cluster_config::placement::{Cluster, Demand, Device, ModelSize, Plan};

use super::fleet::{Fleet, NodeId};
use super::member::Member;
use super::report::{Sizes, WorkerReport};

/// A replica to be formed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assembly {
    /// The model, by the name that requests use.
    pub(crate) model: String,
    /// Its ranks, stage by stage.
    pub(crate) ranks: Vec<RankPlace>,
    /// Its stages: layers, and how many ranks share them.
    pub(crate) stages: Vec<(u32, u32)>,
    /// Blocks of every rank's KV cache.
    pub(crate) kv_blocks: u32,
    /// Most tokens in one step.
    pub(crate) step_tokens: u32,
    /// Why it is this one, for people.
    pub(crate) why: Vec<String>,
}

/// A device of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RankPlace {
    pub(crate) node: NodeId,
    pub(crate) device: u32,
}

/// Plans a replica of `model` over the devices of living nodes that can be ranks: those that have the model, or, where
/// these do not suffice and it has a name on the hub, all of them. `layout`, ranks a stage, is the operator's wish.
/// None where no node says how large the model is.
///
/// # Errors
/// What is missing, where it cannot be placed.
pub(crate) fn plan(fleet: &Fleet, model: &str, layout: Option<&[usize]>) -> Option<Result<Assembly, String>> {
    let ranks = || fleet.alive().filter(|(_, member)| member.report.can_rank && !member.report.draining);
    let having = ranks().filter(|(_, member)| member.report.could_load(model)).collect();
    let planned = over(having, model, layout)?;
    Some(match planned {
        Err(_) if model.contains('/') => over(ranks().collect(), model, layout)?,
        planned => planned,
    })
}

fn over(
    able: Vec<(&NodeId, &Member)>,
    model: &str,
    layout: Option<&[usize]>,
) -> Option<Result<Assembly, String>> {
    let sizes = able.iter().find_map(|(_, member)| member.report.sizes.get(model))?;
    let devices =
        able.iter().flat_map(|(id, member)| member.report.ready().map(|worker| device(id, worker, model)));
    let devices: Vec<Device> = devices.collect();
    let places: BTreeMap<&str, &NodeId> = able.iter().map(|(id, _)| (id.as_str(), *id)).collect();
    let workers = || able.iter().flat_map(|(_, member)| member.report.ready());
    let (cpu, shares) = (workers().any(|worker| worker.is_cpu), workers().all(|worker| worker.is_cpu));
    let problem = Problem { model, sizes, size: size(sizes, cpu, shares), devices, places, cpu };
    Some(match layout {
        Some(layout) => problem.as_told(layout),
        None => problem.planned(),
    })
}

struct Problem<'a> {
    model: &'a str,
    sizes: &'a Sizes,
    size: ModelSize,
    devices: Vec<Device>,
    places: BTreeMap<&'a str, &'a NodeId>,
    cpu: bool,
}

impl Problem<'_> {
    /// The fastest plan for as many and as long sequences as fit.
    fn planned(&self) -> Result<Assembly, String> {
        let cluster = Cluster::of(self.devices.clone());
        let mut missing = None;
        for demand in demands(self.sizes.max_context) {
            match cluster.place(&self.size, demand) {
                Ok(plan) => return self.assembly(&plan, demand),
                Err(error) => missing = Some(error.to_string()),
            }
        }
        Err(missing.unwrap_or_else(|| "nothing was asked for".to_owned()))
    }

    fn assembly(&self, plan: &Plan, demand: Demand) -> Result<Assembly, String> {
        let replica = plan.replicas.first().ok_or("the plan has no replica")?;
        let ranks = replica.stages.iter().flat_map(|stage| &stage.ranks);
        let ranks = ranks.map(|rank| RankPlace {
            node: self.places[rank.host.as_str()].clone(),
            device: u32::try_from(rank.device).unwrap_or(u32::MAX),
        });
        let stages = replica.stages.iter().map(|stage| (stage.layers.clone(), stage.ranks.len()));
        let why =
            plan.why.iter().cloned().chain([format!("{:.1} tokens/s at most", replica.tokens_per_second)]);
        Ok(self.of(ranks.collect(), stages, demand, why.collect()))
    }

    /// Stages of so many ranks each, of as many layers as they have ranks, over the devices with most memory.
    fn as_told(&self, layout: &[usize]) -> Result<Assembly, String> {
        let count: usize = layout.iter().sum();
        let mut devices: Vec<&Device> = self.devices.iter().collect();
        devices.sort_by(|a, b| {
            b.memory.cmp(&a.memory).then_with(|| (&a.host, a.index).cmp(&(&b.host, b.index)))
        });
        if let Some(ranks) = layout.iter().find(|ranks| **ranks > self.size.most_ranks) {
            let most = self.size.most_ranks;
            return Err(format!(
                "the layout has {ranks} ranks share layers, {most} of these devices can at most"
            ));
        }
        if devices.len() < count {
            return Err(format!("the layout wants {count} devices, there are {}", devices.len()));
        }
        let place = |device: &&Device| RankPlace {
            node: self.places[device.host.as_str()].clone(),
            device: u32::try_from(device.index).unwrap_or(u32::MAX),
        };
        let mut before = 0;
        let bound = |ranks: usize| ranks * self.size.layers / count;
        let stages = layout.iter().map(|ranks| {
            let layers = bound(before)..bound(before + ranks);
            before += ranks;
            (layers, *ranks)
        });
        let demand = demands(self.sizes.max_context).nth(1).ok_or("nothing was asked for")?;
        let why = vec!["the layout was given".to_owned()];
        Ok(self.of(devices.iter().take(count).map(place).collect(), stages, demand, why))
    }

    fn of(
        &self,
        ranks: Vec<RankPlace>,
        stages: impl Iterator<Item = (Range<usize>, usize)>,
        demand: Demand,
        why: Vec<String>,
    ) -> Assembly {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Assembly {
            model: self.model.to_owned(),
            ranks,
            stages: stages.map(|(layers, ranks)| (number(layers.len()), number(ranks))).collect(),
            kv_blocks: number(demand.sequences * demand.context.div_ceil(BLOCK_TOKENS)),
            step_tokens: if self.cpu { CPU_STEP_TOKENS } else { GPU_STEP_TOKENS },
            why,
        }
    }
}

/// What is wanted of a replica, most first.
fn demands(max_context: usize) -> impl Iterator<Item = Demand> {
    let usual = [(16, 4096), (4, 4096), (1, 4096), (1, 1024), (1, 256)];
    usual
        .into_iter()
        .map(move |(sequences, context)| Demand { sequences, context: context.min(max_context.max(1)) })
}

fn device(node: &NodeId, worker: &WorkerReport, model: &str) -> Device {
    let or = |measured: f64, usual: f64| if measured > 0.0 { measured } else { usual };
    Device {
        host: node.as_str().to_owned(),
        index: worker.index as usize,
        memory: worker.bytes_for(model),
        bandwidth: or(worker.bandwidth, USUAL_BANDWIDTH),
        compute: or(worker.operations, USUAL_OPERATIONS),
        distributed: true,
    }
}

/// `cpu` where some device is a CPU; `shares` where all are, since GPUs share no layers yet.
fn size(sizes: &Sizes, cpu: bool, shares: bool) -> ModelSize {
    // CPUs keep keys, values and hidden states in f32.
    let of_half = if cpu { 2 } else { 1 };
    ModelSize {
        layers: sizes.layers,
        layer_bytes: sizes.layer_bytes,
        layer_flops: sizes.layer_operations,
        embedding_bytes: sizes.embedding_bytes,
        head_bytes: sizes.head_bytes,
        hidden_bytes: of_half * HALF_BYTES * sizes.hidden_size as u64,
        kv_bytes: of_half * sizes.kv_bytes,
        most_ranks: if shares { sizes.heads } else { 1 },
    }
}

/// Tokens of a block of the engine's KV cache.
const BLOCK_TOKENS: usize = 32;
const HALF_BYTES: u64 = 2;
const CPU_STEP_TOKENS: u32 = 512;
const GPU_STEP_TOKENS: u32 = 2048;
/// Of a device that has not been measured: a desktop's CPU.
const USUAL_BANDWIDTH: f64 = 20e9;
const USUAL_OPERATIONS: f64 = 0.5e12;
