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

use super::cost::{Ask, Habit, Need, Work};
use super::prefixes::{Cuts, Overlaps, Prefixes};
use super::report::{Report, Slots};
use super::speed::Speed;

/// A node that reports nothing for this long is lost, whatever its sockets say.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// A node that has requests of ours and gives no sign of life for this long is stalled: it gets nothing new, and what it
/// has may go on elsewhere. Its beats come every 150 ms: four are missing. Nothing is lost where that is wrong.
pub(crate) const STALL: Duration = Duration::from_millis(700);

/// Whoever is not asked for the time for this long was not running, and blames no node for its silence.
const ASLEEP: Duration = Duration::from_millis(500);

/// How long a lost node's models are remembered, so that requests for them wait for its return
/// rather than being told that no such model exists.
pub(crate) const MEMORY: Duration = Duration::from_secs(600);

/// How long a failed load keeps the router from asking the same node again.
pub(crate) const LOAD_PAUSE: Duration = Duration::from_secs(30);

/// How long after a rank was lost while a replica was formed another is tried: its node may not be known to be lost yet.
pub(crate) const ASSEMBLY_PAUSE: Duration = Duration::from_millis(500);

/// So many requests after its last one, a node's figures are stale.
const STALE_PICKS: u64 = 2000;

/// Overlaps from which on a node's retention is learned, the weight of the latest, and the least that is believed: what is taken for
/// nothing is never tried again.
const LEAST_OVERLAP: f64 = 0.1;
const RETENTION_WEIGHT: f64 = 0.1;
const LEAST_RETENTION: f64 = 0.2;

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
    /// What it was counted for.
    need: Need,
    /// Tokens of prompts before it, and sequences beside it, when it was sent.
    ahead: f64,
    beside: u32,
    /// Its prompt has been computed.
    decodes: bool,
    /// Its node's figures were stale when it was sent.
    stale: bool,
    epoch: u64,
}

/// One node.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// The latest report.
    pub(crate) report: Report,
    /// When the node is lost: when that was noticed.
    pub(crate) lost_at: Option<Instant>,
    /// Distinguishes the node's appearances; changes when a lost node returns.
    pub(crate) epoch: u64,
    /// Reports received in this appearance.
    pub(crate) reports: u64,
    /// When the latest report or beat came.
    pub(crate) heard_at: Instant,
    /// Whether it beats.
    beats: bool,
    /// Found stalled when the last request of ours left it, and not heard since.
    stalled: bool,
    /// Since when it has had requests of ours without a break, and so beats quickly.
    busy_since: Instant,
    /// Our requests on the node now.
    pub(crate) own: u32,
    /// Requests of other routers, as of the latest report.
    others: u32,
    /// Both, for each model.
    of_model: BTreeMap<String, Load>,
    /// Orders nodes by when they were last picked.
    pub(crate) last_pick: u64,
    failed_loads: BTreeMap<String, (Instant, String)>,
    /// How much of what it should have of prompts it really has, in the mean.
    retention: f64,
    /// By model.
    speeds: BTreeMap<String, Speed>,
}

impl Member {
    pub(crate) fn alive(&self) -> bool {
        self.lost_at.is_none()
    }

    /// Requests on the node: ours, known exactly, and those of others, as last reported. A report
    /// lags behind our picks, so ours are never read from it.
    pub(crate) fn load(&self) -> u32 {
        self.others.saturating_add(self.own)
    }

    /// Whether it goes on, as far as its signs of life tell.
    pub(crate) fn flows(&self, now: Instant) -> bool {
        let silent_since = self.heard_at.max(self.busy_since);
        let silent = now.saturating_duration_since(silent_since) >= STALL;
        !(self.stalled || self.beats && self.own > 0 && silent)
    }

    /// How fast it is with `model`, where it has answered.
    pub(crate) fn speed(&self, model: &str) -> Option<&Speed> {
        self.speeds.get(model)
    }

    /// What it has to do for `model`: what is ours, and as much for each request of others as is usual.
    pub(crate) fn work(&self, model: &str, usual: Need) -> Work {
        let load = self.of_model.get(model).copied().unwrap_or_default();
        let slots = self.report.models.get(model).map_or(Slots::Unknown, |holding| holding.slots);
        Work {
            prefill_tokens: load.prefill,
            // Half of what runs has been done.
            decode_tokens: load.decode + f64::from(load.others) * usual.answer_tokens / 2.0,
            sequences: load.own.saturating_add(load.others),
            slots: match slots {
                Slots::Known(slots) => slots,
                Slots::Unknown => 0,
            },
        }
    }

    /// Requests for `model` on it.
    pub(crate) fn in_flight(&self, model: &str) -> u32 {
        self.of_model.get(model).map_or(0, |load| load.own.saturating_add(load.others))
    }

    /// Whether one more request for `model` would run soon.
    pub(crate) fn has_room(&self, model: &str) -> bool {
        let room = self.report.models.get(model).map_or(u32::MAX, |holding| holding.slots.room());
        self.in_flight(model) < room
    }

    /// Why the last load of `model` failed here, while that is recent.
    pub(crate) fn failed_load(&self, model: &str, now: Instant) -> Option<&str> {
        let (at, message) = self.failed_loads.get(model)?;
        (now.saturating_duration_since(*at) < LOAD_PAUSE).then_some(message.as_str())
    }
}

/// Requests for one model on a node.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    own: u32,
    others: u32,
    /// Tokens of our own, as far as can be told: of prompts not computed yet, and of answers.
    prefill: f64,
    decode: f64,
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
            Member {
                report: Report::default(),
                lost_at: None,
                epoch: *epochs,
                reports: 0,
                heard_at: now,
                beats: false,
                stalled: false,
                busy_since: now,
                own: 0,
                others: 0,
                of_model: BTreeMap::new(),
                last_pick: 0,
                failed_loads: BTreeMap::new(),
                speeds: BTreeMap::new(),
                retention: 1.0,
            }
        };
        let member = self.members.entry(node.clone()).or_insert_with(&mut appear);
        if !member.alive() {
            *member = appear();
        }
        member.others = report.queued.saturating_sub(member.own);
        member.of_model.retain(|model, load| load.own > 0 || report.models.contains_key(model));
        for (model, holding) in &report.models {
            let load = member.of_model.entry(model.clone()).or_default();
            load.others = holding.running.saturating_add(holding.waiting).saturating_sub(load.own);
        }
        member.report = report;
        member.reports += 1;
        member.heard_at = now;
        member.stalled = false;
    }

    /// A sign of life came, from a node that gives them. True where it is news that it goes on.
    pub(crate) fn beats(&mut self, node: &NodeId, now: Instant) -> bool {
        let Some(member) = self.members.get_mut(node).filter(|m| m.alive()) else { return false };
        let stalled = !member.flows(now);
        member.heard_at = now;
        member.beats = true;
        member.stalled = false;
        stalled
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
        if member.own == 0 {
            member.busy_since = now;
        }
        member.own += 1;
        member.last_pick = self.picks;
        let beside = member.in_flight(model);
        let load = member.of_model.entry(model.to_owned()).or_default();
        let ahead = load.prefill;
        load.own += 1;
        load.prefill += need.prompt_tokens;
        load.decode += need.answer_tokens;
        let (node, model, epoch) = (node.clone(), model.to_owned(), member.epoch);
        Some(Pick { node, model, ask, need, ahead, beside, decodes: false, stale, epoch })
    }

    /// The first output of a request has come: its prompt has been computed.
    pub(crate) fn decodes(&mut self, pick: &mut Pick) {
        if !std::mem::replace(&mut pick.decodes, true)
            && let Some(member) = self.members.get_mut(&pick.node)
            && member.epoch == pick.epoch
            && let Some(load) = member.of_model.get_mut(&pick.model)
        {
            load.prefill = (load.prefill - pick.need.prompt_tokens).max(0.0);
        }
    }

    /// The request has ended on the node.
    pub(crate) fn release(&mut self, pick: &Pick, now: Instant) {
        if let Some(member) = self.members.get_mut(&pick.node)
            && member.epoch == pick.epoch
        {
            member.stalled = !member.flows(now);
            member.own = member.own.saturating_sub(1);
            if let Some(load) = member.of_model.get_mut(&pick.model) {
                load.own = load.own.saturating_sub(1);
                if !pick.decodes {
                    load.prefill = (load.prefill - pick.need.prompt_tokens).max(0.0);
                }
                load.decode = (load.decode - pick.need.answer_tokens).max(0.0);
                if load.own == 0 {
                    // What rounding left.
                    (load.prefill, load.decode) = (0.0, 0.0);
                }
            }
        }
    }

    /// A request has ended well on the node.
    pub(crate) fn learn(&mut self, pick: &Pick, finished: &Finished) {
        let Some(member) = self.members.get_mut(&pick.node).filter(|m| m.epoch == pick.epoch) else { return };
        // The engine's time until the first token is also that of the prompts before it.
        let own = finished.prompt_tokens.saturating_sub(finished.cached_tokens);
        let computed = f64::from(own) + pick.ahead;
        let prefill = Duration::from_micros(finished.prefill_micros);
        let decode = Duration::from_micros(finished.decode_micros);
        // It is still counted itself.
        let beside = f64::from(pick.beside + member.in_flight(&pick.model).saturating_sub(1)) / 2.0;
        let tokens = finished.completion_tokens / pick.ask.choices.max(1);
        let speed = member.speeds.entry(pick.model.clone()).or_default();
        if pick.stale {
            speed.forget();
        }
        speed.learn((computed, prefill), (tokens, decode), beside);
        if pick.ask.had >= LEAST_OVERLAP {
            // Of what was left after what is known of its retention.
            let cached = f64::from(finished.cached_tokens) / f64::from(finished.prompt_tokens.max(1));
            let sample = (cached / pick.ask.had * member.retention).min(1.0);
            member.retention += (sample - member.retention) * RETENTION_WEIGHT;
            member.retention = member.retention.max(LEAST_RETENTION);
        }
        let habit = self.habits.entry(pick.model.clone()).or_default();
        habit.learn(pick.ask, finished.prompt_tokens, tokens);
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
        let Some(member) = self.members.get_mut(node) else {
            return;
        };
        match failure {
            Some(message) => {
                member.failed_loads.insert(model.to_owned(), (now, message));
            }
            None => {
                member.failed_loads.remove(model);
                // The node said so; its next report, which may be on its way, will say it again.
                let holding = member.report.models.entry(model.to_owned()).or_default();
                holding.ready_on = holding.ready_on.max(1);
            }
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
                // The leader said so; its next report, which may be on its way, will say it again.
                if let Some(member) = self.members.get_mut(leader) {
                    let holding = member.report.models.entry(model.to_owned()).or_default();
                    holding.ready_on = holding.ready_on.max(1);
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
