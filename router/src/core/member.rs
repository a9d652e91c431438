//! One node as far as this router knows: its reports, its signs of life, and what it has to do.
//!
//! Bookkeeping only, like `fleet`, which keeps one for each node. What a request is counted for when it is taken is what is taken off
//! when it ends, whatever has been learned meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mlxcel_protocol::v1::Finished;

use super::cost::{Ask, Need, Work};
use super::report::{Report, Slots};
use super::speed::Speed;

/// A node that has requests of ours and gives no sign of life for this long is stalled: it gets nothing new, and what it
/// has may go on elsewhere. Its beats come every 150 ms: four are missing. Nothing is lost where that is wrong.
pub(crate) const STALL: Duration = Duration::from_millis(700);

/// How long a failed load keeps the router from asking the same node again.
pub(crate) const LOAD_PAUSE: Duration = Duration::from_secs(30);

/// Overlaps from which on a node's retention is learned, the weight of the latest, and the least that is believed: what is taken for
/// nothing is never tried again.
const LEAST_OVERLAP: f64 = 0.1;
const RETENTION_WEIGHT: f64 = 0.1;
const LEAST_RETENTION: f64 = 0.2;

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
    pub(super) retention: f64,
    /// By model.
    speeds: BTreeMap<String, Speed>,
}

impl Member {
    /// A node that has just been heard of, for the first time or since it was lost.
    pub(super) fn appear(epoch: u64, now: Instant) -> Self {
        Self {
            report: Report::default(),
            lost_at: None,
            epoch,
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
            retention: 1.0,
            speeds: BTreeMap::new(),
        }
    }

    /// A report came.
    pub(super) fn reports(&mut self, report: Report, now: Instant) {
        self.others = report.queued.saturating_sub(self.own);
        self.of_model.retain(|model, load| load.own > 0 || report.models.contains_key(model));
        for (model, holding) in &report.models {
            let load = self.of_model.entry(model.clone()).or_default();
            load.others = holding.running.saturating_add(holding.waiting).saturating_sub(load.own);
        }
        self.report = report;
        self.reports += 1;
        self.heard_at = now;
        self.stalled = false;
    }

    /// A beat came. True where it is news that the node goes on.
    pub(super) fn beats(&mut self, now: Instant) -> bool {
        let stalled = !self.flows(now);
        self.heard_at = now;
        self.beats = true;
        self.stalled = false;
        stalled
    }

    /// Counts a request of ours, until it is given back.
    pub(super) fn takes(&mut self, model: &str, need: Need, now: Instant) -> Taken {
        if self.own == 0 {
            self.busy_since = now;
        }
        self.own += 1;
        let beside = self.in_flight(model);
        let load = self.of_model.entry(model.to_owned()).or_default();
        let ahead = load.prefill;
        load.own += 1;
        load.prefill += need.prompt_tokens;
        load.decode += need.answer_tokens;
        Taken { need, ahead, beside, decodes: false, epoch: self.epoch }
    }

    /// The prompt of a request has been computed.
    pub(super) fn decodes(&mut self, model: &str, taken: &mut Taken) {
        if !std::mem::replace(&mut taken.decodes, true)
            && self.epoch == taken.epoch
            && let Some(load) = self.of_model.get_mut(model)
        {
            load.prefill = (load.prefill - taken.need.prompt_tokens).max(0.0);
        }
    }

    /// A request of ours has ended here.
    pub(super) fn gives_back(&mut self, model: &str, taken: &Taken, now: Instant) {
        if self.epoch != taken.epoch {
            return;
        }
        self.stalled = !self.flows(now);
        self.own = self.own.saturating_sub(1);
        let Some(load) = self.of_model.get_mut(model) else { return };
        load.own = load.own.saturating_sub(1);
        if !taken.decodes {
            load.prefill = (load.prefill - taken.need.prompt_tokens).max(0.0);
        }
        load.decode = (load.decode - taken.need.answer_tokens).max(0.0);
        if load.own == 0 {
            // What rounding left.
            (load.prefill, load.decode) = (0.0, 0.0);
        }
    }

    /// A request has ended well, and is still counted.
    pub(super) fn learn(&mut self, model: &str, taken: &Taken, ask: Ask, finished: &Finished) {
        if self.epoch != taken.epoch {
            return;
        }
        // The engine's time until the first token is also that of the prompts before it.
        let own = finished.prompt_tokens.saturating_sub(finished.cached_tokens);
        let computed = (f64::from(own) + taken.ahead, Duration::from_micros(finished.prefill_micros));
        let tokens = finished.completion_tokens / ask.choices.max(1);
        let decoded = (tokens, Duration::from_micros(finished.decode_micros));
        let beside = f64::from(taken.beside + self.in_flight(model).saturating_sub(1)) / 2.0;
        self.speeds.entry(model.to_owned()).or_default().learn(computed, decoded, beside);
        if ask.had >= LEAST_OVERLAP {
            // Of what was left after what is known of its retention.
            let cached = f64::from(finished.cached_tokens) / f64::from(finished.prompt_tokens.max(1));
            let sample = (cached / ask.had * self.retention).min(1.0);
            self.retention += (sample - self.retention) * RETENTION_WEIGHT;
            self.retention = self.retention.max(LEAST_RETENTION);
        }
    }

    /// How fast it was with `model` is long ago.
    pub(super) fn forget_speed(&mut self, model: &str) {
        if let Some(speed) = self.speeds.get_mut(model) {
            speed.forget();
        }
    }

    /// A load of `model` has ended; `failure` says why it failed.
    pub(super) fn load_ends(&mut self, model: &str, failure: Option<String>, now: Instant) {
        match failure {
            Some(message) => _ = self.failed_loads.insert(model.to_owned(), (now, message)),
            None => {
                self.failed_loads.remove(model);
                self.is_said_to_serve(model);
            }
        }
    }

    /// The node said that it has `model`; its next report, which may be on its way, will say it again.
    pub(super) fn is_said_to_serve(&mut self, model: &str) {
        let holding = self.report.models.entry(model.to_owned()).or_default();
        holding.ready_on = holding.ready_on.max(1);
    }

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

/// What a node was counted for one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Taken {
    need: Need,
    /// Tokens of prompts before it, and sequences beside it, when it was sent.
    ahead: f64,
    beside: u32,
    /// Its prompt has been computed.
    decodes: bool,
    epoch: u64,
}
