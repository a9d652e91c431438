//! The nodes as far as this router knows: who is alive, how loaded, with which models.
//!
//! Bookkeeping only: it chooses no node (`dispatch`) and holds no connection (`cluster`). A node is
//! alive while it reports; `SILENCE` without a report or beat and it is lost, and before that, where requests of ours are on
//! it, stalled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlxcel_protocol::v1::Finished;

use super::cost::{Ask, Habit, Need};
use super::member::{LOAD_PAUSE, Member, Taken};
use super::prefixes::{Cuts, Overlaps, Prefixes};
use super::report::Report;

/// A node that reports nothing for this long is lost, whatever its sockets say.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// Whoever is not asked for the time for this long was not running, and blames no node for its silence.
const ASLEEP: Duration = Duration::from_millis(500);

/// How long a lost node's models are remembered, so that requests for them wait for its return
/// rather than being told that no such model exists.
pub(crate) const MEMORY: Duration = Duration::from_secs(600);

/// How long after a rank was lost while a replica was formed another is tried: its node may not be known to be lost yet.
pub(crate) const ASSEMBLY_PAUSE: Duration = Duration::from_millis(500);

/// So many requests after its last one, a node's figures are stale.
const STALE_PICKS: u64 = 2000;

/// A node's identity: the fingerprint of its public key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(Arc<str>);

impl NodeId {
    pub(crate) fn new(fingerprint: &str) -> Self {
        Self(fingerprint.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The first characters, enough for people to tell nodes apart.
    pub(crate) fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// A request of ours on a node, from being chosen until it ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pick {
    pub(crate) node: NodeId,
    model: String,
    ask: Ask,
    /// The node's figures were stale when it was sent.
    stale: bool,
    taken: Taken,
}

/// How forming a replica goes.
#[derive(Debug)]
enum Assembling {
    UnderWay,
    Failed { at: Instant, failed: Failed },
}

/// Why forming a replica failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It would again: a node refused, in these words.
    ForGood(String),
    /// It need not again: a node was lost.
    ForNow,
}

/// All nodes, alive or recently lost.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    members: BTreeMap<NodeId, Member>,
    /// Loads this router has asked for and not heard the end of.
    loads: BTreeSet<(NodeId, String)>,
    assemblies: BTreeMap<String, Assembling>,
    /// Ranks a stage that the operator wants; as planned without.
    layout: Option<Vec<usize>>,
    /// What nodes have been sent.
    prefixes: Prefixes,
    /// What requests for each model are like.
    habits: BTreeMap<String, Habit>,
    epochs: u64,
    picks: u64,
    /// When the time was last told.
    looked_at: Option<Instant>,
}

impl Fleet {
    /// It is `now`. Told before anything is judged by how long ago something was.
    pub(crate) fn at(&mut self, now: Instant) {
        let asleep = self.looked_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.looked_at = Some(now);
        if asleep >= ASLEEP {
            for member in self.members.values_mut() {
                member.heard_at = (member.heard_at + asleep).min(now);
            }
        }
    }

    /// Every member in the order of ids, lost ones included.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.members.iter()
    }

    /// Members that are not lost.
    pub(crate) fn alive(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.members.iter().filter(|(_, m)| m.alive())
    }

    pub(crate) fn get(&self, node: &NodeId) -> Option<&Member> {
        self.members.get(node)
    }

    /// A report arrived: the node is alive.
    pub(crate) fn heard(&mut self, node: &NodeId, report: Report, now: Instant) {
        let epochs = &mut self.epochs;
        let mut appear = || {
            *epochs += 1;
            Member::appear(*epochs, now)
        };
        let member = self.members.entry(node.clone()).or_insert_with(&mut appear);
        if !member.alive() {
            *member = appear();
        }
        member.reports(report, now);
    }

    /// A sign of life came, from a node that gives them. True where it is news that it goes on.
    pub(crate) fn beats(&mut self, node: &NodeId, now: Instant) -> bool {
        self.members.get_mut(node).filter(|m| m.alive()).is_some_and(|member| member.beats(now))
    }

    /// The connection to the node ended. False when the node was not alive.
    pub(crate) fn lose(&mut self, node: &NodeId, now: Instant) -> bool {
        self.loads.retain(|(n, _)| n != node);
        self.prefixes.lose(node);
        match self.members.get_mut(node) {
            Some(member) if member.alive() => {
                member.lost_at = Some(now);
                true
            }
            _ => false,
        }
    }

    /// Loses every node that has been silent too long and returns them; forgets those lost long ago.
    pub(crate) fn lose_silent(&mut self, now: Instant) -> Vec<NodeId> {
        self.at(now);
        self.members
            .retain(|_, member| member.lost_at.is_none_or(|at| now.saturating_duration_since(at) < MEMORY));
        let silent: Vec<NodeId> = self
            .alive()
            .filter(|(_, m)| now.saturating_duration_since(m.heard_at) >= SILENCE)
            .map(|(id, _)| id.clone())
            .collect();
        for node in &silent {
            self.lose(node, now);
        }
        silent
    }

    /// Whether the node got its last request so many others ago that its figures say little any more.
    pub(crate) fn is_stale(&self, member: &Member) -> bool {
        self.picks.saturating_sub(member.last_pick) >= STALE_PICKS
    }

    /// The part of a prompt that each node should have.
    pub(crate) fn overlaps(&self, cuts: &Cuts) -> Overlaps {
        let mut overlaps = self.prefixes.overlaps(cuts);
        for (node, share) in &mut overlaps {
            *share *= self.members.get(node).map_or(0.0, |member| member.retention);
        }
        overlaps
    }

    /// A prompt has been sent to the node.
    pub(crate) fn note(&mut self, cuts: &Cuts, node: &NodeId) {
        self.prefixes.note(cuts, node);
    }

    /// What a request for `model` is likely to need.
    pub(crate) fn need(&self, model: &str, ask: Ask) -> Need {
        self.habits.get(model).copied().unwrap_or_default().expect(ask)
    }

    /// Counts a request of ours towards the node's load until `release`.
    pub(crate) fn pick(&mut self, node: &NodeId, (model, ask): (&str, Ask), now: Instant) -> Option<Pick> {
        let need = self.need(model, ask);
        let stale = self.members.get(node).is_some_and(|member| self.is_stale(member));
        let member = self.members.get_mut(node).filter(|m| m.alive())?;
        self.picks += 1;
        member.last_pick = self.picks;
        let taken = member.takes(model, need, now);
        Some(Pick { node: node.clone(), model: model.to_owned(), ask, stale, taken })
    }

    /// The first output of a request has come: its prompt has been computed.
    pub(crate) fn decodes(&mut self, pick: &mut Pick) {
        if let Some(member) = self.members.get_mut(&pick.node) {
            member.decodes(&pick.model, &mut pick.taken);
        }
    }

    /// The request has ended on the node.
    pub(crate) fn release(&mut self, pick: &Pick, now: Instant) {
        if let Some(member) = self.members.get_mut(&pick.node) {
            member.gives_back(&pick.model, &pick.taken, now);
        }
    }

    /// A request has ended well on the node.
    pub(crate) fn learn(&mut self, pick: &Pick, finished: &Finished) {
        let Pick { node, model, ask, stale, taken } = pick;
        if let Some(member) = self.members.get_mut(node) {
            if *stale {
                member.forget_speed(model);
            }
            member.learn(model, taken, *ask, finished);
            let answer_tokens = finished.completion_tokens / ask.choices.max(1);
            let habit = self.habits.entry(model.clone()).or_default();
            habit.learn(*ask, finished.prompt_tokens, answer_tokens);
        }
    }

    /// A load was asked for. False when that load is already under way.
    pub(crate) fn load_begins(&mut self, node: &NodeId, model: &str) -> bool {
        self.loads.insert((node.clone(), model.to_owned()))
    }

    /// A load this router asked for has ended; `failure` says why it failed.
    pub(crate) fn load_ends(&mut self, node: &NodeId, model: &str, failure: Option<String>, now: Instant) {
        // A node that was lost meanwhile has failed at nothing.
        if !self.loads.remove(&(node.clone(), model.to_owned())) {
            return;
        }
        if let Some(member) = self.members.get_mut(node) {
            member.load_ends(model, failure, now);
        }
    }

    /// Whether this router is having `node` load `model`.
    pub(crate) fn load_under_way(&self, node: &NodeId, model: &str) -> bool {
        self.loads.contains(&(node.clone(), model.to_owned()))
    }

    /// Ranks a stage that the operator wants of every replica.
    pub(crate) fn set_layout(&mut self, layout: Option<Vec<usize>>) {
        self.layout = layout;
    }

    pub(crate) fn layout(&self) -> Option<&[usize]> {
        self.layout.as_deref()
    }

    /// A replica is to be formed. False when that is already under way.
    pub(crate) fn assembly_begins(&mut self, model: &str) -> bool {
        let begins = !self.assembly_under_way(model);
        self.assemblies.insert(model.to_owned(), Assembling::UnderWay);
        begins
    }

    /// Whether a replica of `model` is being formed.
    pub(crate) fn assembly_under_way(&self, model: &str) -> bool {
        matches!(self.assemblies.get(model), Some(Assembling::UnderWay))
    }

    /// Forming a replica has ended: well, with the node that leads it, or not.
    pub(crate) fn assembly_ends(&mut self, model: &str, ended: Result<&NodeId, Failed>, now: Instant) {
        match ended {
            Err(failed) => {
                _ = self.assemblies.insert(model.to_owned(), Assembling::Failed { at: now, failed })
            }
            Ok(leader) => {
                self.assemblies.remove(model);
                if let Some(member) = self.members.get_mut(leader) {
                    member.is_said_to_serve(model);
                }
            }
        }
    }

    /// Why the last replica of `model` could not be formed, while that is recent.
    pub(crate) fn failed_assembly(&self, model: &str, now: Instant) -> Option<Failed> {
        let Some(Assembling::Failed { at, failed }) = self.assemblies.get(model) else { return None };
        let pause = match failed {
            Failed::ForGood(_) => LOAD_PAUSE,
            Failed::ForNow => ASSEMBLY_PAUSE,
        };
        (now.saturating_duration_since(*at) < pause).then(|| failed.clone())
    }

    /// The models that living nodes know, and how well the best of them stands.
    pub(crate) fn models(&self) -> BTreeMap<&str, Availability> {
        let mut models = BTreeMap::new();
        for (_, member) in self.alive().filter(|(_, m)| !m.report.draining) {
            let report = &member.report;
            for name in report.loadable.iter().chain(report.models.keys()) {
                let best = models.entry(name.as_str()).or_insert(Availability::Away);
                *best = Availability::on(report, name).max(*best);
            }
        }
        models
    }
}

/// How a model stands, from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Availability {
    /// Known to nodes whose workers are restarting.
    Away,
    /// Some node could load it.
    Loadable,
    /// Some node is loading it.
    Loading,
    /// Requests are served at once.
    Ready,
}

impl Availability {
    fn on(report: &Report, model: &str) -> Self {
        if report.serves(model) {
            Self::Ready
        } else if report.is_loading(model) {
            Self::Loading
        } else if report.could_load(model) {
            Self::Loadable
        } else {
            Self::Away
        }
    }

    /// The word for it in answers.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Loadable => "loadable",
            Self::Loading => "loading",
            Self::Ready => "ready",
        }
    }
}
