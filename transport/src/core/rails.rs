//! The rails of a link: which are up, which are heard, how fast they are.
//!
//! Pure bookkeeping. Striping needs no plan: whichever rail has room asks for the next slice, so each carries what it
//! can. Only the end of a queue is kept from a rail that would finish it later than another.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::LinkConfig;

/// A connection of a link. Never used again within a link when it has gone down.
pub type RailId = u16;

#[derive(Debug)]
pub(super) struct Rail {
    pub(super) id: RailId,
    /// When anything last came in, and went out.
    heard: Instant,
    spoke: Instant,
    /// Since when it has been busy, and how many bytes it has carried since.
    busy: Option<(Instant, u64)>,
    /// Bytes a second; 0 before anything was measured.
    pub(super) rate: f64,
    /// Frames handed out and not yet handed to the network, in bytes.
    pub(super) handed: u64,
    /// Whether a sign of life is to be sent on it.
    pub(super) sign: bool,
    /// Rails that the peer is to be told are lost, before anything else goes over this one.
    pub(super) announce: VecDeque<RailId>,
}

#[derive(Debug)]
pub(super) struct Rails {
    rails: Vec<Rail>,
    /// When there was last a rail.
    had_one: Instant,
    /// Rails that went down here, until the peer has closed its ends: to be told on every other rail before that
    /// carries anything again.
    gone: Vec<RailId>,
    /// Rails that the peer lost, and that may still be coming up here.
    buried: VecDeque<RailId>,
}

/// What silence means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// Nothing yet.
    None,
    /// These rails are to be closed; others are alive.
    Stalled(Vec<RailId>),
    /// No rail has been heard for too long.
    Silent,
    /// There has been no rail for too long.
    Missing,
}

impl Rails {
    pub(super) const fn new(now: Instant) -> Self {
        Self { rails: Vec::new(), had_one: now, gone: Vec::new(), buried: VecDeque::new() }
    }

    /// Whether it may be used.
    pub(super) fn up(&mut self, id: RailId, now: Instant) -> bool {
        if self.buried.contains(&id) {
            return false;
        }
        if self.get(id).is_none() {
            let rate = self.rails.iter().map(|rail| rail.rate).fold(0.0, f64::max);
            let announce = self.gone.iter().copied().collect();
            let (heard, spoke, busy, sign) = (now, now, None, false);
            self.rails.push(Rail { id, heard, spoke, busy, rate, handed: 0, sign, announce });
        }
        true
    }

    /// Whether it was up.
    pub(super) fn down(&mut self, id: RailId, now: Instant) -> bool {
        let before = self.rails.len();
        self.rails.retain(|rail| rail.id != id);
        if self.rails.len() == before {
            return false;
        }
        self.had_one = now;
        // The peer may have closed its end first, and need not be told.
        if !self.buried.contains(&id) {
            self.gone.push(id);
            self.rails.iter_mut().for_each(|rail| rail.announce.push_back(id));
        }
        true
    }

    /// The peer has closed its end of a rail: it need not be told, and the rail does not come up any more. Whether it
    /// is up here.
    pub(super) fn bury(&mut self, id: RailId) -> bool {
        self.gone.retain(|gone| *gone != id);
        self.rails.iter_mut().for_each(|rail| rail.announce.retain(|gone| *gone != id));
        if !self.buried.contains(&id) {
            self.buried.push_back(id);
        }
        if self.buried.len() > REMEMBERED {
            self.buried.pop_front();
        }
        self.get(id).is_some()
    }

    /// Whether so many rails went down, and none was up for long enough to tell the peer, that the link is of no use.
    pub(super) fn is_hopeless(&self) -> bool {
        self.gone.len() > REMEMBERED
    }

    pub(super) fn get(&mut self, id: RailId) -> Option<&mut Rail> {
        self.rails.iter_mut().find(|rail| rail.id == id)
    }

    pub(super) fn all(&self) -> &[Rail] {
        &self.rails
    }

    pub(super) fn heard(&mut self, id: RailId, now: Instant) {
        if let Some(rail) = self.get(id) {
            rail.heard = now;
        }
    }

    /// Nobody listened for this long: it counts as no silence.
    pub(super) fn was_deaf(&mut self, lasted: Duration, now: Instant) {
        for rail in &mut self.rails {
            rail.heard = (rail.heard + lasted).min(now);
        }
    }

    /// Gives signs of life where nothing else was said, unasked: the peer may hear late what it would be asked by, behind
    /// all that is on its way to it. Judges rails that were not heard.
    pub(super) fn listen(&mut self, config: &LinkConfig, now: Instant) -> Silence {
        if self.rails.is_empty() {
            let missing = now.saturating_duration_since(self.had_one) >= config.silence_limit;
            return if missing { Silence::Missing } else { Silence::None };
        }
        self.had_one = now;
        let quiet = |rail: &Rail| now.saturating_duration_since(rail.heard);
        let shortest = self.rails.iter().map(quiet).min().unwrap_or_default();
        if shortest >= config.silence_limit {
            return Silence::Silent;
        }
        for rail in &mut self.rails {
            rail.sign |= now.saturating_duration_since(rail.spoke) >= config.sign_after;
        }
        let lively = shortest < config.rail_stall / 2;
        let stalled = self.rails.iter().filter(|rail| quiet(rail) >= config.rail_stall && lively);
        let stalled: Vec<RailId> = stalled.map(|rail| rail.id).collect();
        if stalled.is_empty() { Silence::None } else { Silence::Stalled(stalled) }
    }

    pub(super) fn handed(&mut self, id: RailId, bytes: usize, now: Instant) {
        if let Some(rail) = self.get(id) {
            rail.handed += bytes as u64;
            rail.spoke = now;
            rail.busy.get_or_insert((now, 0));
        }
    }

    /// Measures over spans in which a rail always had something to send.
    pub(super) fn sent(&mut self, id: RailId, bytes: usize, now: Instant) {
        let Some(rail) = self.get(id) else { return };
        rail.handed = rail.handed.saturating_sub(bytes as u64);
        let Some((since, carried)) = &mut rail.busy else { return };
        *carried += bytes as u64;
        let span = now.saturating_duration_since(*since);
        if span >= MEASURED_SPAN {
            let measured = *carried as f64 / span.as_secs_f64();
            rail.rate = if rail.rate == 0.0 { measured } else { 0.5 * rail.rate + 0.5 * measured };
            rail.busy = Some((now, 0));
        }
        if rail.handed == 0 {
            rail.busy = None;
        }
    }

    /// Whether `id` should leave a queue of `bytes` to the others, which finish it sooner than this rail a slice.
    pub(super) fn yields(&self, id: RailId, bytes: u64, slice_bytes: usize) -> bool {
        let Some(mine) = self.rails.iter().find(|rail| rail.id == id) else { return false };
        let others = self.rails.iter().filter(|rail| rail.id != id).map(|rail| rail.rate);
        let (others, best) = others.fold((0.0, 0.0_f64), |(sum, best), rate| (sum + rate, best.max(rate)));
        // The fastest never yields: somebody must go on.
        if mine.rate <= 0.0 || best <= mine.rate {
            return false;
        }
        let slice = bytes.min(slice_bytes as u64) as f64;
        slice / mine.rate > SLOWER * (bytes as f64 / others)
    }
}

const REMEMBERED: usize = 256;
const MEASURED_SPAN: Duration = Duration::from_millis(5);
/// Rates are noisy: a rail yields only when it is slower by more than this.
const SLOWER: f64 = 2.0;
