//! What a router knows of one node: its announcement, its link, its next attempt.
//!
//! Pure like the rest of `membership`, which owns the entries.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::backoff::delay;
use super::{LinkState, MembershipAction, Seen};
use crate::discovery::Peer;
use crate::link::{ReportKind, Reported};
use crate::{ConnectError, LinkCause, Report};

#[derive(Debug)]
pub(super) struct Entry {
    peer: Peer,
    /// Addresses the node gave when it asked to be joined.
    joined_at: Vec<SocketAddr>,
    announced: bool,
    /// Discovery lost it and nothing was heard from it since.
    left: bool,
    last_seen: Instant,
    link: LinkState,
    /// Failures since the link last lasted.
    failures: u32,
    connected_at: Option<Instant>,
    /// When a link that had lasted broke.
    broke_at: Option<Instant>,
    last_attempt: Option<Instant>,
    retry_at: Option<Instant>,
    reported: Reported,
}

impl Entry {
    pub(super) fn new(
        peer: Peer,
        how: Seen,
        obstacle: Option<LinkCause>,
        now: Instant,
    ) -> (Self, Vec<MembershipAction>) {
        let mut entry = Self {
            peer: peer.clone(),
            joined_at: Vec::new(),
            announced: false,
            left: false,
            last_seen: now,
            link: LinkState::Connecting { last: None },
            failures: 0,
            connected_at: None,
            broke_at: None,
            last_attempt: None,
            retry_at: None,
            reported: Reported::default(),
        };
        let actions = entry.absorb(peer, how, obstacle, now);
        (entry, actions)
    }

    pub(super) const fn link(&self) -> &LinkState {
        &self.link
    }

    pub(super) const fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn seen_again(
        &mut self,
        peer: Peer,
        how: Seen,
        obstacle: Option<LinkCause>,
        now: Instant,
    ) -> Vec<MembershipAction> {
        match self.link {
            // A link that works, or is being tried, speaks louder than an announcement.
            LinkState::Connected => {
                self.note(peer, how, now);
                Vec::new()
            }
            LinkState::Connecting { .. } if self.retry_at.is_none() => {
                self.note(peer, how, now);
                Vec::new()
            }
            LinkState::Connecting { .. } | LinkState::Failed(_) => self.absorb(peer, how, obstacle, now),
        }
    }

    pub(super) fn lost(&mut self, now: Instant) {
        self.announced = false;
        self.left = true;
        self.last_seen = now;
    }

    pub(super) fn connected(&mut self, now: Instant) -> Vec<MembershipAction> {
        self.link = LinkState::Connected;
        self.connected_at = Some(now);
        self.last_seen = now;
        self.retry_at = None;
        if self.reported.recovered() { vec![self.report(ReportKind::Recovered)] } else { Vec::new() }
    }

    pub(super) fn failed(&mut self, error: ConnectError, now: Instant) -> Vec<MembershipAction> {
        if self.link == LinkState::Connected {
            // Late news of an attempt that another overtook.
            return Vec::new();
        }
        self.failures = self.failures.saturating_add(1);
        let wait = if error.cause.is_transient() { self.delay(now) } else { NEEDS_SOMEONE_WAIT };
        self.fail(error, Some(now + wait))
    }

    pub(super) fn disconnected(&mut self, now: Instant) -> Vec<MembershipAction> {
        if self.link != LinkState::Connected {
            return Vec::new();
        }
        let lasted = self.connected_at.take().is_some_and(|since| now.duration_since(since) >= LASTING);
        self.failures = if lasted { 0 } else { self.failures.saturating_add(1) };
        self.broke_at = lasted.then_some(now).or(self.broke_at);
        self.last_seen = now;
        self.link = LinkState::Connecting { last: None };
        if self.failures == 0 {
            return vec![self.connect(now)];
        }
        self.retry_at = Some(now + self.delay(now));
        Vec::new()
    }

    pub(super) fn tick(&mut self, now: Instant) -> Option<MembershipAction> {
        self.retry_at.is_some_and(|due| due <= now).then(|| self.connect(now))
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let forget_at =
            (!self.announced && self.link != LinkState::Connected).then(|| self.last_seen + FORGET_AFTER);
        [self.retry_at, forget_at].into_iter().flatten().min()
    }

    pub(super) fn forgotten(&self, now: Instant) -> bool {
        let under_way = matches!(self.link, LinkState::Connecting { .. }) && self.retry_at.is_none();
        !self.announced
            && !under_way
            && self.link != LinkState::Connected
            && now.duration_since(self.last_seen) >= FORGET_AFTER
    }

    /// Takes over an announcement and acts on it: reports what makes an attempt pointless, or
    /// makes one, now or as soon as the last one is long enough ago. Announcements are unproven,
    /// so a flood of them must not become a flood of attempts.
    fn absorb(
        &mut self,
        peer: Peer,
        how: Seen,
        obstacle: Option<LinkCause>,
        now: Instant,
    ) -> Vec<MembershipAction> {
        self.note(peer, how, now);
        if let Some(cause) = obstacle {
            let address = self.addresses().first().copied();
            return self.fail(ConnectError { address, cause }, None);
        }
        self.failures = 0;
        if self.addresses().is_empty() {
            // Addresses arrive one by one, and the first may be of no use from here.
            self.retry_at = Some(now + ADDRESS_GRACE);
            return Vec::new();
        }
        match self.last_attempt.map(|last| last + ATTEMPT_SPACING) {
            Some(allowed) if allowed > now => {
                self.retry_at = Some(allowed);
                Vec::new()
            }
            _ => vec![self.connect(now)],
        }
    }

    fn note(&mut self, peer: Peer, how: Seen, now: Instant) {
        self.last_seen = now;
        self.left = false;
        match how {
            Seen::Announced => {
                self.announced = true;
                self.peer = peer;
            }
            Seen::Joining => {
                self.joined_at.clone_from(&peer.addresses);
                if !self.announced {
                    self.peer = peer;
                }
            }
        }
    }

    fn fail(&mut self, error: ConnectError, retry_at: Option<Instant>) -> Vec<MembershipAction> {
        self.link = LinkState::Failed(error.clone());
        self.retry_at = retry_at;
        // A node that said goodbye refuses connections: that is how it ends, not a fault.
        let expected = self.left && error.cause == LinkCause::Refused;
        if !expected && self.reported.is_news(&error.cause) {
            vec![self.report(ReportKind::Failed(error))]
        } else {
            Vec::new()
        }
    }

    fn connect(&mut self, now: Instant) -> MembershipAction {
        let last = match std::mem::replace(&mut self.link, LinkState::Connected) {
            LinkState::Failed(error) => Some(error),
            LinkState::Connecting { last } => last,
            LinkState::Connected => None,
        };
        self.link = LinkState::Connecting { last };
        self.retry_at = None;
        self.last_attempt = Some(now);
        MembershipAction::Connect {
            id: self.peer.id,
            hostname: self.peer.hostname.clone(),
            addresses: self.addresses(),
        }
    }

    /// A node that served until lately is likely to come back, without a word where it was only stopped or cut off.
    fn delay(&self, now: Instant) -> Duration {
        let served = self.broke_at.is_some_and(|at| now.duration_since(at) < SERVED_LATELY);
        let delay = delay(self.failures, self.announced);
        if served { delay.min(SERVED_MOST) } else { delay }
    }

    /// The addresses the node gave itself first: they come from where it knows best.
    fn addresses(&self) -> Vec<SocketAddr> {
        let mut all = self.joined_at.clone();
        for address in &self.peer.addresses {
            if !all.contains(address) {
                all.push(*address);
            }
        }
        all
    }

    fn report(&self, kind: ReportKind) -> MembershipAction {
        MembershipAction::Report(Report {
            id: self.peer.id,
            hostname: self.peer.hostname.clone(),
            role: self.peer.role,
            kind,
        })
    }
}

/// A link that breaks sooner counts as one more failure.
const LASTING: Duration = Duration::from_secs(10);
/// Shortest time between two attempts that announcements bring about.
const ATTEMPT_SPACING: Duration = Duration::from_millis(500);
/// How long a node that announces no useful address may take to announce one.
const ADDRESS_GRACE: Duration = Duration::from_secs(3);
/// Wait after a failure that only a person can mend.
const NEEDS_SOMEONE_WAIT: Duration = Duration::from_secs(30);
/// How long a node whose link had lasted is tried more often, and its longest wait.
const SERVED_LATELY: Duration = Duration::from_secs(600);
const SERVED_MOST: Duration = Duration::from_secs(1);
/// A node that is neither announced nor connected is dropped after this.
const FORGET_AFTER: Duration = Duration::from_secs(600);
