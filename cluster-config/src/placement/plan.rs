//! A plan, and why it is the one; or what is missing.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use super::cost::{Problem, usable};
use super::search::{Found, best_replica};

/// Where a model goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Tokens a second of all replicas together: what memory, compute and links allow.
    pub tokens_per_second: f64,
    /// Copies of the model.
    pub replicas: Vec<Replica>,
    /// What else was looked at, and why it was not taken.
    pub why: Vec<String>,
}

/// One copy of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replica {
    /// Tokens a second for its sequences: what memory, compute and links allow.
    pub tokens_per_second: f64,
    /// Sequences that it is given of those wanted.
    pub sequences: usize,
    /// Its stages, first to last.
    pub stages: Vec<Stage>,
}

/// Layers, and the ranks that share them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// Which layers, from 0.
    pub layers: Range<usize>,
    /// Seconds of a decode step of one sequence.
    pub seconds: f64,
    /// The ranks.
    pub ranks: Vec<Rank>,
}

/// A device's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rank {
    /// The host.
    pub host: String,
    /// Which of its devices.
    pub device: usize,
    /// Bytes of weights, keys and values.
    pub bytes: u64,
    /// Bytes that may be used.
    pub usable: u64,
}

/// A model does not fit, however it is divided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the model needs {:.1} GB ({:.1} of weights, {:.1} of keys and values) and cannot be divided over the {:.1} GB that {devices} devices have to use; take fewer bits, a shorter context, or more memory",
    gb(*.weights + *.cache), gb(*.weights), gb(*.cache), gb(*.usable)
)]
pub struct Unplaceable {
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of keys and values.
    pub cache: u64,
    /// Bytes that may be used, of all devices.
    pub usable: u64,
    /// How many devices.
    pub devices: usize,
}

impl Unplaceable {
    pub(super) fn new(problem: &Problem<'_>) -> Self {
        let devices = problem.cluster.devices();
        Self {
            weights: problem.model.weight_bytes(),
            cache: problem.model.cache_bytes(problem.demand),
            usable: devices.iter().map(usable).sum(),
            devices: devices.len(),
        }
    }
}

impl Plan {
    pub(super) fn new(problem: &Problem<'_>, rate: f64, found: &[Found], sequences: &[usize]) -> Self {
        let replicas =
            found.iter().zip(sequences).map(|(found, sequences)| replica(problem, found, *sequences));
        Self { tokens_per_second: rate, replicas: replicas.collect(), why: why(problem, found) }
    }
}

fn replica(problem: &Problem<'_>, found: &Found, sequences: usize) -> Replica {
    let (mut first, count) = (0, found.stages.len());
    let stages = found.stages.iter().enumerate().map(|(at, share)| {
        let layers = first..first + share.layers;
        first = layers.end;
        let bytes = problem.bytes(share, at, count);
        let rank = |at: &usize| {
            let device = problem.device(*at);
            Rank { host: device.host.clone(), device: device.index, bytes, usable: usable(device) }
        };
        let seconds = problem.stage_time(share, at, count, 1.0);
        Stage { layers, seconds, ranks: share.group.iter().map(rank).collect() }
    });
    let stages = stages.collect();
    Replica { tokens_per_second: problem.rate(&found.stages, sequences.max(1)), sequences, stages }
}

/// What single devices, one host and all hosts together would give.
fn why(problem: &Problem<'_>, found: &[Found]) -> Vec<String> {
    let devices = problem.cluster.devices();
    let singles = (0..devices.len()).filter_map(|at| {
        let alone = best_replica(problem, &[at], 1)?;
        Some((alone.rate, at))
    });
    let mut why = Vec::new();
    match singles.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))) {
        Some((rate, at)) => {
            let Device { host, index } = Device::of(problem, at);
            why.push(format!("the best device alone, {host}:{index}, gives {rate:.1} tokens/s"));
        }
        None => {
            let need = problem.model.weight_bytes() + problem.model.cache_bytes(problem.demand);
            let most = devices.iter().map(usable).max().unwrap_or(0);
            why.push(format!(
                "no device alone holds {:.1} GB; the largest has {:.1} to use",
                gb(need),
                gb(most)
            ));
        }
    }
    let used: usize = found.iter().flat_map(|found| &found.stages).map(|share| share.group.len()).sum();
    if used < devices.len() {
        why.push(format!(
            "left out: {} of {} devices, with which it would be slower, or no faster",
            devices.len() - used,
            devices.len()
        ));
    }
    why
}

struct Device<'a> {
    host: &'a str,
    index: usize,
}

impl<'a> Device<'a> {
    fn of(problem: &Problem<'a>, at: usize) -> Self {
        let device = &problem.cluster.devices()[at];
        Self { host: &device.host, index: device.index }
    }
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.replicas.len();
        let plural = if count == 1 { "" } else { "s" };
        writeln!(f, "{count} replica{plural}, {:.1} tokens/s at most", self.tokens_per_second)?;
        for (at, replica) in self.replicas.iter().enumerate() {
            let Replica { tokens_per_second, sequences, stages } = replica;
            writeln!(f, "replica {}: {sequences} at once, {tokens_per_second:.1} tokens/s", at + 1)?;
            for stage in stages {
                let Range { start, end } = stage.layers;
                writeln!(f, "  layers {}-{}, {:.2} ms", start + 1, end, stage.seconds * 1e3)?;
                for Rank { host, device, bytes, usable } in &stage.ranks {
                    writeln!(f, "    {host}:{device}  {:.1} of {:.1} GB", gb(*bytes), gb(*usable))?;
                }
            }
        }
        self.why.iter().try_for_each(|why| writeln!(f, "{why}"))
    }
}
