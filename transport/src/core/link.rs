//! The link: what the user of a transport and its driver call. See the module's page for the protocol.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::answering::Reads;
use super::frame::{Header, Verb};
use super::incoming::Arrivals;
use super::outgoing::{Outgoing, What};
use super::rails::{RailId, Rails, Silence};
use super::sending::Queues;
use super::{LinkConfig, ProtocolError};
use crate::contract::{Batch, Channel, Completion, OpError, PeerId, PeerLoss, RailStats, Tag};
use crate::domain::{Domain, MAX_MESSAGE, Outbox};

/// What a driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Close this rail at once, place nothing more of it, and then say `rail_down`: before anything else is fed.
    CloseRail(RailId, &'static str),
    /// The peer is lost: close all rails and forget the link.
    Lost(PeerLoss),
}

/// The books of one peer.
#[derive(Debug)]
pub struct Link {
    pub(super) domain: Arc<Domain>,
    pub(super) peer: PeerId,
    pub(super) config: LinkConfig,
    pub(super) rails: Rails,
    pub(super) outgoing: HashMap<u64, Outgoing>,
    /// Items that were given up, until the peer knows.
    pub(super) given_up: BTreeSet<u64>,
    /// Answers among what is outgoing.
    pub(super) answers: usize,
    pub(super) queues: Queues,
    pub(super) arrivals: Arrivals,
    pub(super) reads: Reads,
    pub(super) outbox: Outbox,
    pub(super) events: VecDeque<LinkEvent>,
    pub(super) lost: Option<PeerLoss>,
    next_item: u64,
    next_tick: Instant,
    pub(super) bytes_out: u64,
    pub(super) bytes_in: u64,
    pub(super) resent: u64,
}

impl Link {
    /// A link to `peer` without rails: it counts as lost when it has none for longer than the silence limit.
    #[must_use]
    pub fn new(domain: Arc<Domain>, peer: PeerId, config: LinkConfig, now: Instant) -> Self {
        Self {
            domain,
            peer,
            config,
            rails: Rails::new(now),
            outgoing: HashMap::new(),
            given_up: BTreeSet::new(),
            answers: 0,
            queues: Queues::default(),
            arrivals: Arrivals::default(),
            reads: Reads::default(),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            lost: None,
            next_item: 0,
            next_tick: now + config.tick(),
            bytes_out: 0,
            bytes_in: 0,
            resent: 0,
        }
    }

    /// Whose books these are.
    #[must_use]
    pub const fn peer(&self) -> PeerId {
        self.peer
    }

    // What users ask for.

    /// Writes a batch; `done` ends when the peer has counted it.
    pub fn write(&mut self, batch: &Batch, tag: Tag, done: Completion) {
        self.post(What::Write { batch: batch.clone(), tag }, done);
    }

    /// Reads a batch; `done` ends when its bytes are there.
    pub fn read(&mut self, batch: &Batch, done: Completion) {
        if self.refuses(&done) {
            return;
        }
        for ranges in self.reads.begin(&self.domain, batch, done) {
            let item = self.next_item;
            let done = self.reads.part(item, ranges.read);
            self.post(What::Request { ranges: ranges.bytes }, done);
        }
    }

    /// Sends a message; `done` ends when it is in the peer's hands.
    pub fn send(&mut self, channel: Channel, message: Bytes, done: Completion) {
        if message.len() > MAX_MESSAGE {
            done.end(Err(OpError::Cancelled));
        } else if !self.refuses(&done) {
            self.outbox.push(channel, message, done);
            self.send_what_fits(channel);
        }
    }

    /// Says good-bye when `next_frame` is next called, and counts the peer as lost.
    pub fn close(&mut self) {
        if self.lost.is_none() {
            self.lose(PeerLoss::Closed);
            self.queues.control.push_back(Header::new(Verb::Goodbye, 0));
        }
    }

    // What drivers report.

    /// A rail is there: a connection whose handshake is done.
    pub fn rail_up(&mut self, rail: RailId, now: Instant) {
        if !self.rails.up(rail, now) {
            self.events.push_back(LinkEvent::CloseRail(rail, "the peer lost it before it was up here"));
        }
    }

    /// Bytes have come in over a rail, of whatever: a part of a payload that takes long, say.
    pub fn heard(&mut self, rail: RailId, now: Instant) {
        self.rails.heard(rail, now);
    }

    /// A rail is gone, and nothing more of it will be placed. What it carried goes again over others.
    pub fn rail_down(&mut self, rail: RailId, now: Instant) {
        if !self.rails.down(rail, now) {
            return;
        }
        self.arrivals.rail_down(rail);
        if self.rails.is_hopeless() {
            self.lose(PeerLoss::Broken);
        }
        if self.lost.is_some() {
            return;
        }
        let lost = |(item, outgoing): (&u64, &Outgoing)| {
            let item = *item;
            outgoing.lost_with(rail).map(move |slice| (item, slice)).collect::<Vec<_>>()
        };
        let mut again: Vec<_> = self.outgoing.iter().flat_map(lost).collect();
        again.sort_unstable();
        self.resent += again.len() as u64;
        self.queues.again.extend(again);
        self.tell_again();
    }

    /// What the lost rail may have carried beside slices is asked for, or said, again.
    fn tell_again(&mut self) {
        let sent = self.outgoing.iter().filter(|(_, outgoing)| outgoing.was_sent());
        let mut sent: Vec<u64> = sent.map(|(item, _)| *item).collect();
        sent.sort_unstable();
        let queries = sent.into_iter().map(|item| Header::new(Verb::Query, item));
        let cancels = self.given_up.iter().map(|item| Header::new(Verb::Cancel, *item));
        self.queues.control.extend(queries.chain(cancels));
        self.domain.retell_credit(self.peer);
    }

    /// When `handle_timeout` is next to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.lost.is_none().then_some(self.next_tick)
    }

    /// Lets time pass: silent rails, ended operations.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.lost.is_some() || now < self.next_tick {
            return;
        }
        let late = now.saturating_duration_since(self.next_tick);
        if late > self.config.tick() {
            self.rails.was_deaf(late, now);
        }
        self.next_tick = now + self.config.tick();
        self.give_up_ended();
        match self.rails.listen(&self.config, now) {
            Silence::None => {}
            Silence::Stalled(rails) => {
                let close = |rail| LinkEvent::CloseRail(rail, "it is silent while others are not");
                self.events.extend(rails.into_iter().map(close));
            }
            Silence::Silent => self.lose(PeerLoss::Silent),
            Silence::Missing => self.lose(PeerLoss::Broken),
        }
    }

    /// What the driver has to do. To be asked after every other call, until there is nothing.
    pub fn poll(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// Why the peer is lost, if it is.
    #[must_use]
    pub const fn lost(&self) -> Option<PeerLoss> {
        self.lost
    }

    /// Ends the link because of what the peer sent.
    pub fn fail(&mut self, error: ProtocolError) {
        self.lose(PeerLoss::Protocol(error.0));
    }

    /// Ends the link for a reason that the driver knows.
    pub fn abandon(&mut self, why: PeerLoss) {
        self.lose(why);
    }

    /// Operations that are not done.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.outgoing.len() + self.outbox.len() + self.reads.len()
    }

    /// Payload bytes that the peer acknowledged, those that arrived, and slices that were sent again.
    #[must_use]
    pub const fn totals(&self) -> [u64; 3] {
        [self.bytes_out, self.bytes_in, self.resent]
    }

    /// The rails' figures.
    #[must_use]
    pub fn rail_stats(&self) -> Vec<RailStats> {
        let stats = |rail: &super::rails::Rail| RailStats {
            peer: self.peer,
            rail: rail.id,
            rate: rail.rate,
            in_flight: rail.handed,
            usable: true,
        };
        self.rails.all().iter().map(stats).collect()
    }

    pub(super) fn post(&mut self, what: What, done: Completion) {
        if self.refuses(&done) {
            return;
        }
        let item = self.next_item;
        self.next_item += 1;
        let outgoing = Outgoing::new(what, done, self.config.slice_bytes);
        self.queues.add(item, &outgoing);
        self.outgoing.insert(item, outgoing);
    }

    fn refuses(&self, done: &Completion) -> bool {
        if self.lost.is_some() {
            done.end(Err(OpError::PeerLost));
        }
        self.lost.is_some()
    }

    pub(super) fn send_what_fits(&mut self, channel: Channel) {
        while let Some((number, message, done)) = self.outbox.next(channel) {
            self.post(What::Message { channel, number, message: message.0 }, done);
        }
    }

    /// Gives up what was cancelled or is late, and tells the peer so.
    fn give_up_ended(&mut self) {
        let ended = self.outgoing.iter().filter(|(_, outgoing)| outgoing.done.is_ended());
        let mut ended: Vec<u64> = ended.map(|(item, _)| *item).collect();
        ended.sort_unstable();
        for item in ended {
            self.give_up(item);
        }
        self.reads.give_up_ended(&self.domain);
    }

    pub(super) fn give_up(&mut self, item: u64) {
        let Some(outgoing) = self.outgoing.get(&item) else { return };
        // A message that has its number is needed for those behind it.
        if !matches!(outgoing.what, What::Message { .. }) {
            self.outgoing.remove(&item);
            self.given_up.insert(item);
            self.queues.control.push_back(Header::new(Verb::Cancel, item));
        }
    }

    pub(super) fn lose(&mut self, why: PeerLoss) {
        if self.lost.is_some() {
            return;
        }
        self.lost = Some(why);
        // First: whoever finds an operation lost finds the peer lost.
        self.domain.peer_lost(self.peer, why);
        for (_, outgoing) in self.outgoing.drain() {
            outgoing.done.end(Err(OpError::PeerLost));
        }
        for done in self.outbox.drain() {
            done.end(Err(OpError::PeerLost));
        }
        self.reads.lose(&self.domain);
        self.given_up.clear();
        self.queues = Queues::default();
        self.arrivals.clear();
        self.events.push_back(LinkEvent::Lost(why));
    }
}

impl LinkConfig {
    /// How often a link looks at the time: a few times within every limit.
    fn tick(&self) -> Duration {
        (self.sign_after.min(self.silence_limit) / 2).max(Duration::from_millis(1))
    }
}
