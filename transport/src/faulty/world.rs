//! What happens on the network, event by event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::wire::{Conditions, Way, Wire, payload_bytes};
use crate::contract::{Kind, PeerId};
use crate::core::{HEADER_BYTES, Head, Header, Link, LinkConfig, LinkEvent, Placement, RailId, Target};
use crate::domain::{Domain, Kick};

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    random: StdRng,
    rails: u16,
    conditions: Conditions,
    config: LinkConfig,
    pub(super) ends: BTreeMap<PeerId, End>,
    pub(super) wires: Vec<Wire>,
    /// Pairs that may not be joined, and pairs that want to be, with the next rail between them.
    cut: BTreeSet<[PeerId; 2]>,
    wanted: BTreeMap<[PeerId; 2], Dialling>,
}

#[derive(Debug)]
pub(super) struct End {
    pub(super) domain: Arc<Domain>,
    pub(super) links: BTreeMap<PeerId, Link>,
    frozen: bool,
}

#[derive(Debug)]
struct Dialling {
    next_rail: RailId,
    not_before: Instant,
}

impl World {
    pub(super) fn new(seed: u64, rails: u16, conditions: Conditions, config: LinkConfig) -> Self {
        Self {
            now: Instant::now(),
            random: StdRng::seed_from_u64(seed),
            rails,
            conditions,
            config,
            ends: BTreeMap::new(),
            wires: Vec::new(),
            cut: BTreeSet::new(),
            wanted: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self) -> Arc<Domain> {
        let domain = Domain::with_manual_clock(PeerId::from_bytes(self.random.random()));
        let end = End { domain: Arc::clone(&domain), links: BTreeMap::new(), frozen: false };
        self.ends.insert(domain.id(), end);
        domain
    }

    /// Joins two endpoints; whether both are there and not kept apart.
    pub(super) fn join(&mut self, one: PeerId, other: PeerId) -> bool {
        let pair = pair(one, other);
        if !self.ends.contains_key(&one) || !self.ends.contains_key(&other) || self.cut.contains(&pair) {
            return false;
        }
        for (me, peer) in [(one, other), (other, one)] {
            let (now, config) = (self.now, self.config);
            let end = self.ends.get_mut(&me).expect("both ends are there");
            if !end.links.contains_key(&peer) {
                end.links.insert(peer, Link::new(Arc::clone(&end.domain), peer, config, now));
                end.domain.peer_connected(peer, Kind::InProcess, Kick(Arc::new(|| {})));
            }
        }
        self.wanted.entry(pair).or_insert(Dialling { next_rail: 0, not_before: self.now });
        self.redial();
        true
    }

    /// Lets time pass until `until`, or `done`.
    pub(super) fn run_until(&mut self, until: Instant, done: impl Fn() -> bool) {
        loop {
            while !done() && self.work() {}
            if done() {
                return;
            }
            match self.next_event().filter(|next| *next <= until) {
                Some(next) => self.now = self.now.max(next),
                None => {
                    self.now = self.now.max(until);
                    self.work();
                    return;
                }
            }
        }
    }

    /// Does what can be done now; whether anything was.
    fn work(&mut self) -> bool {
        let now = self.now;
        for end in self.ends.values_mut().filter(|end| !end.frozen) {
            end.domain.expire(now);
            for link in end.links.values_mut() {
                link.handle_timeout(now);
            }
        }
        self.redial();
        let closed = self.obey_links();
        let mut sent = false;
        for wire in 0..self.wires.len() {
            sent |= self.fill(wire);
        }
        self.deliver() || sent || closed
    }

    fn next_event(&self) -> Option<Instant> {
        let live = || self.ends.values().filter(|end| !end.frozen);
        let arrivals = self.wires.iter().flat_map(|wire| wire.ways.iter().filter_map(Way::next_arrival));
        let ticks = live().flat_map(|end| end.links.values().filter_map(Link::next_timeout));
        let deadlines = live().filter_map(|end| end.domain.expire(self.now));
        let dials = self.wanted.values().map(|dialling| dialling.not_before);
        arrivals.chain(ticks).chain(deadlines).chain(dials).filter(|at| *at > self.now).min()
    }

    /// Has both ends of a wire send what fits on it.
    fn fill(&mut self, wire: usize) -> bool {
        let mut sent = false;
        for end in self.wires[wire].ends {
            let other =
                self.wires[wire].ends.into_iter().find(|other| *other != end).expect("wires join two");
            let Some(end) = self.ends.get_mut(&end).filter(|end| !end.frozen) else { continue };
            let Some(link) = end.links.get_mut(&other) else { continue };
            let wire = &mut self.wires[wire];
            while wire.from(end.domain.id()).has_room() {
                let Some(frame) = link.next_frame(wire.rail, self.now) else { break };
                link.sent(wire.rail, frame.len(), self.now);
                let most = wire.conditions.jitter.as_nanos() as u64;
                let jitter = Duration::from_nanos(self.random.random_range(0..=most));
                let breaks = self.random.random_range(0..1_000_000) < wire.conditions.breaks_per_million;
                let conditions = wire.conditions;
                if !wire.swallows {
                    wire.from(end.domain.id()).send(frame, &conditions, self.now, (jitter, breaks));
                }
                sent = true;
            }
        }
        sent
    }

    /// Takes in one frame that has arrived, if there is one.
    fn deliver(&mut self) -> bool {
        for at in 0..self.wires.len() {
            for way in 0..2 {
                let wire = &self.wires[at];
                let to = wire.ends[1 - way];
                let due = wire.ways[way].next_arrival().is_some_and(|arrives| arrives <= self.now);
                if due && self.ends.get(&to).is_some_and(|end| !end.frozen) {
                    self.take_in(at, way);
                    return true;
                }
            }
        }
        false
    }

    fn take_in(&mut self, at: usize, way: usize) {
        let (now, rail) = (self.now, self.wires[at].rail);
        let [from, to] = [self.wires[at].ends[way], self.wires[at].ends[1 - way]];
        let end = self.ends.get_mut(&to).expect("deliver looked");
        let flying = self.wires[at].ways[way].flying.front_mut().expect("deliver looked");
        let Some(link) = end.links.get_mut(&from) else {
            self.wires[at].ways[way].flying.pop_front();
            return;
        };
        let taken = match flying.placement.take() {
            None => {
                let received = link.receive(rail, &parse(&flying.frame.head), now);
                received.map(|placement| flying.placement = Some(placement)).map(|()| false)
            }
            Some(placement) => {
                // Part of it first: a wire that breaks leaves half a slice behind.
                let bytes = payload_bytes(&flying.frame.payload);
                let part =
                    if flying.breaks { self.random.random_range(0..=bytes.len()) } else { bytes.len() };
                if link.wants(&placement).is_ok_and(|wanted| wanted) {
                    place(&placement, &bytes[..part]);
                }
                if flying.breaks {
                    let rail = self.wires[at].rail;
                    return self.break_wire(from, to, rail);
                }
                link.placed(rail, placement, Some(bytes), now).map(|()| true)
            }
        };
        match taken {
            Ok(true) => drop(self.wires[at].ways[way].flying.pop_front()),
            Ok(false) => {}
            Err(error) => link.fail(error),
        }
        self.obey_links();
    }

    /// Does what links ask for; whether any asked.
    fn obey_links(&mut self) -> bool {
        let mut any = false;
        while let Some((me, peer, event)) = self.ends.iter_mut().find_map(|(me, end)| {
            end.links.iter_mut().find_map(|(peer, link)| link.poll().map(|event| (*me, *peer, event)))
        }) {
            any = true;
            match event {
                LinkEvent::CloseRail(rail, _) => self.break_wire(me, peer, rail),
                LinkEvent::Lost(_) => self.forget(me, peer),
            }
        }
        any
    }

    /// A link of `me` is lost: its good-bye goes out where it can, and its wires break.
    fn forget(&mut self, me: PeerId, peer: PeerId) {
        self.wanted.remove(&pair(me, peer));
        let frames = self.ends.get_mut(&me).and_then(|end| end.links.remove(&peer));
        let goodbye = frames.and_then(|mut link| link.next_frame(0, self.now));
        let other = self.ends.get_mut(&peer).and_then(|end| end.links.get_mut(&me));
        let silent = self.wires.iter().any(|wire| wire.joins(me, peer) && wire.swallows);
        if let (Some(frame), Some(link), false) = (goodbye, other, silent) {
            let heard = link.receive(0, &parse(&frame.head), self.now);
            heard.map(drop).unwrap_or_else(|error| link.fail(error));
        }
        let rails: Vec<RailId> = self.rails_between(me, peer);
        rails.into_iter().for_each(|rail| self.break_wire(me, peer, rail));
    }

    fn rails_between(&self, one: PeerId, other: PeerId) -> Vec<RailId> {
        self.wires.iter().filter(|wire| wire.joins(one, other)).map(|wire| wire.rail).collect()
    }

    /// Breaks a wire: both ends see that, unless it swallows what it carries.
    fn break_wire(&mut self, one: PeerId, other: PeerId, rail: RailId) {
        let now = self.now;
        self.wires.retain(|wire| !(wire.joins(one, other) && wire.rail == rail));
        for (me, peer) in [(one, other), (other, one)] {
            if let Some(link) = self.ends.get_mut(&me).and_then(|end| end.links.get_mut(&peer)) {
                link.rail_down(rail, now);
            }
        }
        if let Some(dialling) = self.wanted.get_mut(&pair(one, other)) {
            dialling.not_before = now + REDIAL_AFTER;
        }
    }

    fn redial(&mut self) {
        let (now, conditions) = (self.now, self.conditions);
        for (ends, dialling) in &mut self.wanted {
            let frozen = ends.iter().any(|end| self.ends.get(end).is_none_or(|end| end.frozen));
            let have = self.wires.iter().filter(|wire| wire.joins(ends[0], ends[1])).count();
            if frozen || self.cut.contains(ends) || dialling.not_before > now {
                continue;
            }
            for _ in have..usize::from(self.rails) {
                let rail = dialling.next_rail;
                dialling.next_rail += 1;
                let ways = Default::default();
                self.wires.push(Wire { rail, ends: *ends, ways, conditions, swallows: false });
                for (me, peer) in [(ends[0], ends[1]), (ends[1], ends[0])] {
                    if let Some(link) = self.ends.get_mut(&me).and_then(|end| end.links.get_mut(&peer)) {
                        link.rail_up(rail, now);
                    }
                }
            }
        }
    }

    pub(super) fn cut(&mut self, one: PeerId, other: PeerId) {
        self.cut.insert(pair(one, other));
        for rail in self.rails_between(one, other) {
            self.break_wire(one, other, rail);
        }
    }

    pub(super) fn restore(&mut self, one: PeerId, other: PeerId) {
        self.cut.remove(&pair(one, other));
    }

    pub(super) fn swallow(&mut self, one: PeerId, other: PeerId) {
        self.cut.insert(pair(one, other));
        for wire in self.wires.iter_mut().filter(|wire| wire.joins(one, other)) {
            wire.swallows = true;
            wire.ways.iter_mut().for_each(|way| way.flying.clear());
        }
    }

    pub(super) fn break_one(&mut self, one: PeerId, other: PeerId) {
        let rails = self.rails_between(one, other);
        if !rails.is_empty() {
            let chosen = self.random.random_range(0..rails.len());
            self.break_wire(one, other, rails[chosen]);
        }
    }

    pub(super) fn kill(&mut self, peer: PeerId) {
        self.ends.remove(&peer);
        self.wanted.retain(|ends, _| !ends.contains(&peer));
        let gone: Vec<_> =
            self.wires.iter().filter(|wire| wire.has(peer)).map(|w| (w.ends, w.rail)).collect();
        for (ends, rail) in gone {
            self.break_wire(ends[0], ends[1], rail);
        }
    }

    pub(super) fn freeze(&mut self, peer: PeerId, frozen: bool) {
        if let Some(end) = self.ends.get_mut(&peer) {
            end.frozen = frozen;
        }
    }

    pub(super) fn set_conditions(
        &mut self,
        one: PeerId,
        other: PeerId,
        number: usize,
        conditions: Conditions,
    ) -> bool {
        let mut wires = self.wires.iter_mut().filter(|wire| wire.joins(one, other));
        wires.nth(number).map(|wire| wire.conditions = conditions).is_some()
    }
}

fn parse(head: &[u8]) -> Head {
    let (header, further) = head.split_first_chunk::<HEADER_BYTES>().expect("a frame has a header");
    Header::parse(header).and_then(|header| Head::parse(header, further)).expect("links send correct frames")
}

fn place(placement: &Placement, mut bytes: &[u8]) {
    let Target::Regions(slices) = &placement.target else { return };
    for slice in slices {
        let (head, rest) = bytes.split_at(slice.len().min(bytes.len()));
        slice.part(0..head.len()).fill_from(head);
        bytes = rest;
    }
}

fn pair(one: PeerId, other: PeerId) -> [PeerId; 2] {
    if one < other { [one, other] } else { [other, one] }
}

const REDIAL_AFTER: Duration = Duration::from_millis(20);
