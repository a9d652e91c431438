//! Chooses the node for a request: of those that have the model ready the one that would be done with it first, else the
//! least loaded that could load it.
//!
//! A pure function of the fleet; knows neither the request's history (`attempt` tells it which nodes
//! to leave out) nor how a node is reached.

use std::time::{Duration, Instant};

use super::assembly::{self, Assembly};
use super::cost::{self, Ask};
use super::fleet::{Failed, Fleet, NodeId};
use super::member::Member;
use super::prefixes::Overlaps;

/// How a request regards a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// May be chosen.
    Free,
    /// Had no room a moment ago; worth waiting for rather than loading the model elsewhere.
    Busy,
    /// Failed this request.
    Failed,
}

/// What there is to know of a request besides its model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wish {
    pub(crate) ask: Ask,
    /// What nodes have of its prompt.
    pub(crate) overlaps: Overlaps,
    /// Goes where there is no room, too.
    pub(crate) crowds: bool,
    /// How many wait behind it.
    pub(crate) queued: u32,
}

/// Where a request can go.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Choice {
    /// Send it there.
    Serve(NodeId),
    /// Have that node load the model, then choose again.
    Load(NodeId),
    /// No device holds the model alone: form this replica, then choose again.
    Assemble(Assembly),
    /// The model is being loaded somewhere.
    Loading,
    /// Every node that has the model and goes on has as much as it can do.
    Full,
    /// Every node that has the model has no room, or does not go on at the moment.
    Busy,
    /// Nobody can serve it now.
    Nowhere(Absence),
}

/// Why nobody can serve a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Absence {
    /// No node is connected, so nothing is known about any model.
    NoNodes,
    /// Nodes are connected, and none of them (nor any lately lost) knows the model.
    Unknown,
    /// The nodes that know the model are lost, draining, restarting or have failed the request.
    Away,
    /// Every node that could load it failed to, lately; the message of the first.
    LoadFailed(String),
}

/// Chooses for a request for `model`, regarding each node as `standing` says.
pub(crate) fn choose(
    fleet: &Fleet,
    model: &str,
    now: Instant,
    standing: impl Fn(&NodeId, &Member) -> Standing,
    wish: &Wish,
) -> Choice {
    let free = |id: &NodeId, m: &Member| standing(id, m) == Standing::Free;
    let serving = || fleet.alive().filter(|(_, m)| m.report.serves(model));
    let flowing = || serving().filter(|(id, m)| free(id, m) && flows(m, model, now));
    if let Some((node, member)) = best(fleet, model, wish, flowing()) {
        return match wish.crowds || member.has_room(model) {
            true => Choice::Serve(node.clone()),
            false => Choice::Full,
        };
    }
    // What is stalled goes on, or is lost soon.
    if serving().any(|(id, m)| match standing(id, m) {
        Standing::Free => !flows(m, model, now),
        Standing::Busy => true,
        Standing::Failed => false,
    }) {
        return Choice::Busy;
    }
    let usable = || fleet.alive().filter(|(id, m)| free(id, m));
    let under_way = |id: &NodeId, m: &Member| m.report.is_loading(model) || fleet.load_under_way(id, model);
    if fleet.assembly_under_way(model) || usable().any(|(id, m)| under_way(id, m)) {
        return Choice::Loading;
    }
    let able = || usable().filter(|(_, m)| m.report.could_load(model));
    let loadable = || able().filter(|(_, m)| m.report.could_hold(model));
    let untried = loadable().filter(|(_, m)| m.failed_load(model, now).is_none());
    if let Some((node, _)) = least_loaded(untried) {
        return Choice::Load(node.clone());
    }
    if loadable().next().is_none()
        && let Some(choice) = divided(fleet, model, now)
    {
        return choice;
    }
    Choice::Nowhere(match loadable().find_map(|(_, m)| m.failed_load(model, now)) {
        Some(message) => Absence::LoadFailed(message.to_owned()),
        None => absence(fleet, model),
    })
}

/// Where the request would be done first, be it that it waits for room there. A node whose speed is not known is tried with one request
/// at a time; where none is known, requests are counted.
fn best<'a, I: Iterator<Item = (&'a NodeId, &'a Member)>>(
    fleet: &Fleet,
    model: &str,
    wish: &Wish,
    nodes: I,
) -> Option<(&'a NodeId, &'a Member)> {
    let usual = fleet.need(model, Ask::default());
    let done = |id: &NodeId, m: &Member| {
        let had = wish.overlaps.get(id).copied().unwrap_or(0.0);
        let need = fleet.need(model, Ask { had, ..wish.ask });
        let mut work = m.work(model, usual);
        if !m.has_room(model) {
            // Whoever waits behind it, and is like it, would go there as well.
            let queued = f64::from(wish.queued);
            work.sequences = work.sequences.saturating_add(wish.queued);
            work.prefill_tokens += queued * need.prompt_tokens;
            work.decode_tokens += queued * need.answer_tokens;
        }
        cost::completion(m.speed(model)?, &work, need)
    };
    let nodes: Vec<_> = nodes.map(|(id, m)| (done(id, m), m.last_pick, id, m)).collect();
    // What was slow once need not be for ever.
    let untried = |done: &Option<Duration>, m: &Member| done.is_none() || fleet.is_stale(m);
    let known = nodes.iter().filter(|(done, ..)| done.is_some());
    let Some((.., id, member)) = known.min_by_key(|(done, last_pick, id, _)| (*done, *last_pick, *id)) else {
        let all = || nodes.iter().map(|(.., id, m)| (*id, *m));
        return least_loaded(all().filter(|(_, m)| m.has_room(model))).or_else(|| least_loaded(all()));
    };
    let idle = nodes.iter().filter(|(done, _, _, m)| untried(done, m) && m.in_flight(model) == 0);
    least_loaded(idle.map(|(.., id, m)| (*id, *m))).or(Some((id, member)))
}

/// Whether a request that is on `stalled` could go on at once on another node.
pub(crate) fn has_another(
    fleet: &Fleet,
    model: &str,
    now: Instant,
    stalled: &NodeId,
    standing: impl Fn(&NodeId, &Member) -> Standing,
) -> bool {
    let mut others = fleet.alive().filter(|(id, m)| *id != stalled && m.report.serves(model));
    others.any(|(id, m)| standing(id, m) == Standing::Free && flows(m, model, now))
}

fn flows(member: &Member, model: &str, now: Instant) -> bool {
    member.flows(now) && member.report.flows(model)
}

/// What can be done about a model that no device holds alone; none where nothing is known of its size.
fn divided(fleet: &Fleet, model: &str, now: Instant) -> Option<Choice> {
    let planned = assembly::plan(fleet, model, fleet.layout())?;
    Some(match (fleet.failed_assembly(model, now), planned) {
        (Some(Failed::ForGood(message)), _) | (None, Err(message)) => {
            Choice::Nowhere(Absence::LoadFailed(message))
        }
        (Some(Failed::ForNow), _) => Choice::Nowhere(Absence::Away),
        (None, Ok(assembly)) => Choice::Assemble(assembly),
    })
}

fn absence(fleet: &Fleet, model: &str) -> Absence {
    if fleet.members().any(|(_, m)| m.report.knows(model)) {
        Absence::Away
    } else if fleet.alive().next().is_none() {
        Absence::NoNodes
    } else {
        Absence::Unknown
    }
}

/// Least requests for each ready worker; among equals the one picked longest ago, then by id.
fn least_loaded<'a>(
    nodes: impl Iterator<Item = (&'a NodeId, &'a Member)>,
) -> Option<(&'a NodeId, &'a Member)> {
    nodes.min_by(|(id_a, a), (id_b, b)| {
        let workers = |m: &Member| u64::from(m.report.ready_workers.max(1));
        // load_a / workers_a against load_b / workers_b, without dividing.
        let of_a = u64::from(a.load()) * workers(b);
        let of_b = u64::from(b.load()) * workers(a);
        of_a.cmp(&of_b).then(a.last_pick.cmp(&b.last_pick)).then_with(|| id_a.cmp(id_b))
    })
}
