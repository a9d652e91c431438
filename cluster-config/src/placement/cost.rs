//! How long a step takes, and how much memory it needs: a roofline of each rank, and what passes between them.
//!
//! A decode step reads the weights and the keys and values once, or computes, whichever takes longer; the ranks of a
//! stage sum twice a layer; a hidden state passes from stage to stage.

use super::cluster::{Cluster, Device};
use super::model::{Demand, ModelSize};

/// Devices that share every layer of a stage, by their places in the cluster.
pub(super) type Group = Vec<usize>;

/// A model to be placed on a cluster.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) model: &'a ModelSize,
    pub(super) demand: Demand,
}

/// A group with its layers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Share {
    pub(super) group: Group,
    pub(super) layers: usize,
}

/// Of a device's memory, what models may take.
const USABLE: f64 = 0.9;
/// Times a layer that the ranks of a stage sum.
const SUMS: f64 = 2.0;

pub(super) fn usable(device: &Device) -> u64 {
    (device.memory as f64 * USABLE) as u64
}

impl Problem<'_> {
    pub(super) fn device(&self, at: usize) -> &Device {
        &self.cluster.devices()[at]
    }

    /// Bytes on each rank of the `at`th of several stages.
    pub(super) fn bytes(&self, share: &Share, at: usize, stages: usize) -> u64 {
        let layer = self.model.layer_bytes + self.model.layer_cache(self.demand);
        let ends = self.ends(at, stages);
        (share.layers as u64 * layer + ends).div_ceil(share.group.len() as u64)
    }

    /// Bytes of embedding and head that a stage holds.
    pub(super) fn ends(&self, at: usize, stages: usize) -> u64 {
        let embedding = if at == 0 { self.model.embedding_bytes } else { 0 };
        let head = if at + 1 == stages { self.model.head_bytes } else { 0 };
        embedding + head
    }

    /// Layers that fit on a group as the `at`th of several stages.
    pub(super) fn room(&self, group: &Group, at: usize, stages: usize) -> usize {
        let least = group.iter().map(|at| usable(self.device(*at))).min().unwrap_or(0);
        let layer = (self.model.layer_bytes + self.model.layer_cache(self.demand)).max(1);
        let left = (least * group.len() as u64).saturating_sub(self.ends(at, stages));
        (left / layer) as usize
    }

    /// Seconds that a group takes for one layer of a step of `sequences`.
    pub(super) fn layer_time(&self, group: &Group, sequences: f64) -> f64 {
        let ranks = group.len() as f64;
        let read = self.model.layer_bytes as f64
            + sequences * (self.model.kv_bytes * self.demand.context as u64) as f64;
        let of = |at: &usize| {
            let device = self.device(*at);
            (read / device.bandwidth).max(sequences * self.model.layer_flops / device.compute) / ranks
        };
        group.iter().map(of).fold(0.0, f64::max) + SUMS * self.sum_time(group, sequences)
    }

    /// Seconds that the ranks of a group take to sum a hidden state: each sends its own to all others.
    fn sum_time(&self, group: &Group, sequences: f64) -> f64 {
        let mut worst = 0.0_f64;
        for (at, one) in group.iter().enumerate() {
            for other in &group[at + 1..] {
                let link = self.cluster.link(self.device(*one), self.device(*other));
                let bytes = sequences * self.model.hidden_bytes as f64 * (group.len() - 1) as f64;
                worst = worst.max(link.latency + bytes / link.bandwidth);
            }
        }
        worst
    }

    /// Seconds of a stage for a step of `sequences`.
    pub(super) fn stage_time(&self, share: &Share, at: usize, stages: usize, sequences: f64) -> f64 {
        let head = if at + 1 == stages { self.model.head_bytes as f64 } else { 0.0 };
        let ranks = share.group.len() as f64;
        let slowest = share.group.iter().map(|at| self.device(*at).bandwidth).fold(f64::INFINITY, f64::min);
        share.layers as f64 * self.layer_time(&share.group, sequences) + head / ranks / slowest
    }

    /// Seconds until a hidden state of `sequences` is at the next stage.
    fn hop(&self, from: &Group, to: &Group, sequences: f64) -> f64 {
        let (Some(one), Some(other)) = (from.first(), to.first()) else { return 0.0 };
        let link = self.cluster.link(self.device(*one), self.device(*other));
        link.latency + sequences * self.model.hidden_bytes as f64 / link.bandwidth
    }

    /// Tokens a second of a replica that decodes `sequences` at once. With several stages they go in as many parts, so
    /// that all stages are busy.
    pub(super) fn rate(&self, stages: &[Share], sequences: usize) -> f64 {
        let count = stages.len();
        let parts = count.min(sequences).max(1);
        let part = sequences as f64 / parts as f64;
        let times = stages.iter().enumerate().map(|(at, share)| self.stage_time(share, at, count, part));
        let times: Vec<f64> = times.collect();
        let hops = stages.windows(2).map(|pair| self.hop(&pair[0].group, &pair[1].group, part)).sum::<f64>();
        // The last stage's tokens go back to the first.
        let back = match stages {
            [first, .., last] => self.hop(&last.group, &first.group, 0.0),
            _ => 0.0,
        };
        let once = times.iter().sum::<f64>() + hops + back;
        let busiest = times.iter().copied().fold(0.0, f64::max);
        part / busiest.max(once / parts as f64)
    }
}
