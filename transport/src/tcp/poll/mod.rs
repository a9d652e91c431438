//! Moves bytes when the system says that it can be done: epoll, kqueue, or its like on Windows.
//!
//! The transport's own thread waits in the queue that `reception` waits in too, without the lock. Rails are waited for
//! edge-triggered, once and for both directions, so that no call of the system is spent on saying what is waited for.

use std::sync::Arc;
use std::time::Instant;

use super::endpoint::Endpoint;
use super::links::Links;
use super::reception::Reception;

/// The transport's own thread.
pub(super) struct Driver {
    endpoint: Arc<Endpoint>,
    reception: Reception,
}

impl Driver {
    pub(super) const fn new(endpoint: Arc<Endpoint>, reception: Reception) -> Self {
        Self { endpoint, reception }
    }

    /// Runs until the endpoint is closed.
    pub(super) fn run(mut self) {
        let mut until = Some(Instant::now());
        while !self.endpoint.is_closed() {
            let turns = self.endpoint.rest.turns();
            self.reception.wait(until);
            until = self.work();
            until = self.stand_by(turns).unwrap_or(until);
        }
        let mut links = self.endpoint.links();
        links.close();
        links.pump(Instant::now());
    }

    /// Does everything that can be done now; when there is something again, at the latest.
    fn work(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut links = self.endpoint.links();
        self.endpoint.obey_line(&mut links, now);
        for key in links.take_unread() {
            links.read(key, now);
        }
        self.reception.attend(&mut links, now, |links, key, event| {
            if event.is_writable() || event.is_error() {
                links.unblock(key);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                links.read(key, now);
            }
        });
        links.handle_timeouts(now);
        links.pump(now);
        self.watch_newborn(&mut links, now);
        let until = links.fall_asleep(self.reception.next_timeout(), now);
        drop(links);
        self.endpoint.work_off();
        until
    }

    fn watch_newborn(&self, links: &mut Links, now: Instant) {
        for key in links.take_newborn() {
            let Some(rail) = links.rails.get_mut(key) else { continue };
            if let Err(error) = self.reception.watch(key, &mut rail.socket) {
                links.close_rail(key, Some(&error.into()), now);
            }
        }
    }

    /// While callers drive, this thread only looks now and then, for what they do not do: greetings. When to look again
    /// after that.
    fn stand_by(&mut self, mut turns: u64) -> Option<Option<Instant>> {
        let mut until = None;
        while self.endpoint.rest.is_driven_since(turns) && !self.endpoint.is_closed() {
            turns = self.endpoint.rest.turns();
            self.endpoint.links().asleep_until = None;
            self.endpoint.rest.park();
            self.reception.wait(Some(Instant::now()));
            until = Some(self.work());
        }
        until
    }
}
