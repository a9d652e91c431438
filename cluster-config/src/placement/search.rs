//! What is tried: single devices, devices that share layers, pipelines of both, and how many replicas of them.
//!
//! Groups are made of the fastest devices of a host, or of several hosts; pipelines of the fastest groups, as many as
//! it takes and as pay. The best replica comes first, the next from what is left; how many of them are used is decided
//! by what they give together. Every device that can hold the whole model is among what is tried, so that no plan is
//! slower than the best of them.

use std::collections::BTreeSet;

use super::cluster::Cluster;
use super::cost::{Group, Problem, Share};
use super::fill::{Fill, fill};
use super::model::{Demand, ModelSize};
use super::plan::{Plan, Unplaceable};

/// A replica that was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) stages: Vec<Share>,
    /// Tokens a second for all that is wanted.
    pub(super) rate: f64,
}

/// What two ways are compared by.
#[derive(Clone, Copy)]
struct Candidate {
    rate: f64,
    devices: usize,
}

impl Candidate {
    /// More devices have to pay.
    fn beats(self, other: Self) -> bool {
        let least = if self.devices > other.devices { other.rate * (1.0 + MARGIN) } else { other.rate };
        self.rate > least
    }
}

impl Found {
    fn devices(&self) -> usize {
        self.stages.iter().map(|share| share.group.len()).sum()
    }

    fn candidate(&self) -> Candidate {
        Candidate { rate: self.rate, devices: self.devices() }
    }
}

impl Cluster {
    /// The best plan for `model`.
    ///
    /// # Errors
    /// What is missing, where there is none.
    pub fn place(&self, model: &ModelSize, demand: Demand) -> Result<Plan, Unplaceable> {
        let whole = Problem { cluster: self, model, demand };
        let mut best: Option<Way<'_>> = None;
        // Every replica has room for the same number of sequences: for all of them, for half, and so on.
        for parts in doubled(demand.sequences.min(self.devices().len()).max(1)) {
            let part = Demand { sequences: demand.sequences.div_ceil(parts).max(1), ..demand };
            let problem = Problem { demand: part, ..whole };
            for most in doubled(model.most_ranks.min(self.devices().len()).max(1)) {
                let replicas = replicas(&problem, most);
                for used in demand.sequences.div_ceil(part.sequences).max(1)..=replicas.len() {
                    let way = Way::new(problem, &replicas[..used], demand.sequences);
                    if best.as_ref().is_none_or(|best| way.candidate.beats(best.candidate)) {
                        best = Some(way);
                    }
                }
            }
        }
        match best {
            Some(way) => Ok(Plan::new(&way.problem, way.candidate.rate, &way.replicas, &way.sequences)),
            None => Err(Unplaceable::new(&whole)),
        }
    }
}

/// Replicas, and the sequences of each.
struct Way<'a> {
    problem: Problem<'a>,
    candidate: Candidate,
    replicas: Vec<Found>,
    sequences: Vec<usize>,
}

impl<'a> Way<'a> {
    /// Has each of `sequences` go where it adds most.
    fn new(problem: Problem<'a>, replicas: &[Found], sequences: usize) -> Self {
        let rate = |at: usize, count: usize| match count {
            0 => 0.0,
            _ => problem.rate(&replicas[at].stages, count),
        };
        let mut counts = vec![0; replicas.len()];
        for _ in 0..sequences.max(1) {
            let gain = |at: usize| rate(at, counts[at] + 1) - rate(at, counts[at]);
            let open = (0..replicas.len()).filter(|at| counts[*at] < problem.demand.sequences);
            let best = open.max_by(|a, b| gain(*a).total_cmp(&gain(*b)).then(b.cmp(a)));
            counts[best.unwrap_or(0)] += 1;
        }
        let rate = counts.iter().enumerate().map(|(at, count)| rate(at, *count)).sum();
        let candidate = Candidate { rate, devices: replicas.iter().map(Found::devices).sum() };
        Self { problem, candidate, replicas: replicas.to_vec(), sequences: counts }
    }
}

/// All powers of two up to `most`, and `most`.
fn doubled(most: usize) -> BTreeSet<usize> {
    let powers = std::iter::successors(Some(1), |power| Some(power * 2)).take_while(|power| *power <= most);
    powers.chain([most]).collect()
}

/// Replicas one after the other, each the best of what the ones before it left.
fn replicas(problem: &Problem<'_>, most: usize) -> Vec<Found> {
    let mut free: Vec<usize> = (0..problem.cluster.devices().len()).collect();
    let mut found = Vec::new();
    while let Some(replica) = best_replica(problem, &free, most) {
        let used: BTreeSet<usize> = replica.stages.iter().flat_map(|share| share.group.clone()).collect();
        free.retain(|at| !used.contains(at));
        found.push(replica);
    }
    found
}

pub(super) fn best_replica(problem: &Problem<'_>, free: &[usize], most: usize) -> Option<Found> {
    let whole = |group: Group| fill(problem, &[group], Fill::Fastest);
    let singles = free.iter().filter_map(|at| whole(vec![*at]));
    let shared: Vec<usize> = free.iter().copied().filter(|at| problem.device(*at).distributed).collect();
    let groups = groups(problem, &shared, most);
    let together = groups.iter().filter_map(|group| whole(group.clone()));
    let pipelines = pipelines(problem, &shared, most);
    let mut best: Option<Found> = None;
    for stages in singles.chain(together).chain(pipelines) {
        let rate = problem.rate(&stages, problem.demand.sequences);
        let found = Found { stages, rate };
        if best.as_ref().is_none_or(|best| found.candidate().beats(best.candidate())) {
            best = Some(found);
        }
    }
    best
}

/// Devices by speed, the fastest first.
fn by_speed(problem: &Problem<'_>, devices: &[usize]) -> Vec<usize> {
    let mut sorted = devices.to_vec();
    let bandwidth = |at: usize| problem.device(at).bandwidth;
    sorted.sort_by(|a, b| bandwidth(*b).total_cmp(&bandwidth(*a)).then(a.cmp(b)));
    sorted
}

fn hosts<'a>(problem: &Problem<'a>, devices: &[usize]) -> BTreeSet<&'a str> {
    devices.iter().map(|at| problem.cluster.devices()[*at].host.as_str()).collect()
}

/// Groups of two or more, within each host and over all.
fn groups(problem: &Problem<'_>, free: &[usize], most: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    let of_host = |host: &str| free.iter().copied().filter(|at| problem.device(*at).host == host).collect();
    let pools = hosts(problem, free).into_iter().map(of_host).chain([free.to_vec()]);
    for pool in pools {
        let pool: Vec<usize> = pool;
        let fastest = by_speed(problem, &pool);
        groups.extend((2..=most.min(fastest.len())).map(|width| fastest[..width].to_vec()));
    }
    groups
}

/// Pipelines of groups of each host's devices, at most `most` in a group.
fn pipelines(problem: &Problem<'_>, free: &[usize], most: usize) -> Vec<Vec<Share>> {
    let mut units: Vec<Group> = Vec::new();
    for host in hosts(problem, free) {
        let own: Vec<usize> = free.iter().copied().filter(|at| problem.device(*at).host == host).collect();
        units.extend(by_speed(problem, &own).chunks(most).map(<[usize]>::to_vec));
    }
    let time = |group: &Group| problem.layer_time(group, 1.0);
    let room = |group: &Group| problem.room(group, 1, 3);
    let mut by_time = units.clone();
    by_time.sort_by(|a, b| time(a).total_cmp(&time(b)).then(a.cmp(b)));
    let mut by_room = units;
    by_room.sort_by(|a, b| room(b).cmp(&room(a)).then(a.cmp(b)));
    let mut found = Vec::new();
    for order in [by_time, by_room] {
        for count in 2..=order.len() {
            // Groups of one host follow each other.
            let mut chain = order[..count].to_vec();
            chain.sort_by(|a, b| problem.device(a[0]).host.cmp(&problem.device(b[0]).host).then(a.cmp(b)));
            let fills = [Fill::Fastest, Fill::Balanced].into_iter();
            found.extend(fills.filter_map(|how| fill(problem, &chain, how)));
        }
    }
    found
}

/// More devices for less gain than this are not worth it.
const MARGIN: f64 = 0.01;
