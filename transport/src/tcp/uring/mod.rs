//! Moves bytes while the caller does something else: io_uring.
//!
//! The transport's own thread owns the ring. It keeps a receive on every rail that waits for a frame, sends what is left
//! of what callers could not send themselves, and waits for all of that and for `reception`'s queue with one call of
//! the system. Bytes for regions are waited for, and then read by a call that does not block: the kernel never writes
//! to a region by itself, which may by then belong to somebody else. While callers drive, the ring takes its receives
//! back, so that they can read for themselves.
//!
//! Raw `io-uring` rather than `compio`: its tasks belong to the thread that runs them, while here a caller moves its own
//! bytes; and a sleeping exchange of 4 KiB took 15.5 us with it against 11.0 us with the ring itself, bulk being level
//! (two busy cores, in turns). Beside epoll the ring is level for bulk, since the copies are the cost, and saves one call
//! in two for each small frame that a sleeping thread receives.

mod ring;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::links::Links;
use super::rail::Rail;
use super::reception::Reception;

pub(super) use ring::Ring;
use ring::{Done, What};

/// The transport's own thread.
pub(super) struct Driver {
    endpoint: Arc<Endpoint>,
    reception: Reception,
    ring: Ring,
    /// The ring waits for the reception's queue.
    queue_watched: bool,
}

impl Driver {
    pub(super) const fn new(endpoint: Arc<Endpoint>, reception: Reception, ring: Ring) -> Self {
        Self { endpoint, reception, ring, queue_watched: false }
    }

    /// Runs until the endpoint is closed.
    pub(super) fn run(mut self) {
        self.ring.enable();
        while !self.endpoint.is_closed() {
            let turns = self.endpoint.rest.turns();
            let until = self.prepare();
            self.ring.wait(until);
            self.work();
            self.stand_by(turns);
        }
        self.finish();
    }

    /// Has the kernel do what can be asked of it now; when to look again at the latest.
    fn prepare(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let endpoint = Arc::clone(&self.endpoint);
        let mut links = endpoint.links();
        endpoint.obey_line(&mut links, now);
        links.retry_blocked();
        links.offer(now, |key, rail| self.ring.send(key, rail));
        links.take_unread();
        links.request(|key, rail| self.ring.receive(key, rail));
        if !self.queue_watched {
            self.ring.watch(self.reception.queue());
            self.queue_watched = true;
        }
        let until = links.fall_asleep(self.reception.next_timeout(), now);
        drop(links);
        endpoint.work_off();
        until
    }

    /// Heeds what the kernel has done.
    fn work(&mut self) {
        let now = Instant::now();
        let endpoint = Arc::clone(&self.endpoint);
        let mut links = endpoint.links();
        links.asleep_until = None;
        while let Some(Done { what, result }) = self.ring.next_done() {
            match what {
                What::Received(key) => received(&mut links, key, result, now),
                What::Sent(key) => sent(&mut links, key, result, now),
                What::Queue => self.queue_watched = false,
                What::Cancelled => {}
            }
        }
        if !self.queue_watched {
            self.reception.wait(Some(now));
        }
        self.reception.attend(&mut links, now, |_, _, _| {});
        for key in links.take_newborn() {
            let Some(rail) = links.rails.get_mut(key) else { continue };
            if let Err(error) = self.reception.release(&mut rail.socket) {
                links.close_rail(key, Some(&error.into()), now);
            }
        }
        links.handle_timeouts(now);
    }

    /// While callers drive, the kernel is asked for nothing, and this thread only looks after what callers do not do:
    /// greetings. With sends in flight there is enough to do for both.
    fn stand_by(&mut self, mut turns: u64) {
        while self.endpoint.rest.is_driven_since(turns) && !self.endpoint.is_closed() {
            if !self.withdraw() {
                return;
            }
            turns = self.endpoint.rest.turns();
            self.endpoint.rest.park();
            self.ring.wait(Some(Instant::now()));
            self.work();
        }
    }

    /// Takes all receives back, if the kernel has nothing else to do; whether it has nothing to do any more.
    fn withdraw(&mut self) -> bool {
        loop {
            let mut links = self.endpoint.links();
            links.asleep_until = None;
            if links.rails.iter().any(|(_, rail)| rail.writing) {
                return false;
            }
            let reading = links.rails.iter().filter(|(_, rail)| rail.reading);
            let reading: Vec<usize> = reading.map(|(key, _)| key).collect();
            drop(links);
            if reading.is_empty() {
                return true;
            }
            for key in reading {
                self.ring.cancel_receive(key);
            }
            self.ring.wait(Some(Instant::now() + BRIEFLY));
            self.work();
        }
    }

    /// Says good-bye, and waits until the kernel uses no memory of ours any more.
    fn finish(mut self) {
        let mut links = self.endpoint.links();
        links.close();
        links.pump(Instant::now());
        let rails: Vec<usize> = links.rails.iter().map(|(key, _)| key).collect();
        for key in rails {
            links.close_rail(key, None, Instant::now());
        }
        drop(links);
        while !self.endpoint.links().rails.is_empty() {
            self.ring.wait(Some(Instant::now() + BRIEFLY));
            self.work();
        }
    }
}

fn received(links: &mut Links, key: usize, result: io::Result<usize>, now: Instant) {
    links.rails[key].reading = false;
    if !links.operation_ended(key, now) {
        return;
    }
    match result {
        Ok(_) if links.rails[key].scatter.bytes() == 0 => drop(links.read(key, now)),
        Ok(0) => links.close_rail(key, Some(&io::Error::from(io::ErrorKind::UnexpectedEof).into()), now),
        Ok(count) => {
            links.filled(key, count, now);
            // The rest of a payload is there more often than not.
            if links.rails.get(key).is_some_and(Rail::is_at_region) {
                links.read(key, now);
            }
        }
        Err(error) if is_passing(&error) => {}
        Err(error) => links.close_rail(key, Some(&error.into()), now),
    }
}

fn sent(links: &mut Links, key: usize, result: io::Result<usize>, now: Instant) {
    links.rails[key].writing = false;
    links.rails[key].release();
    if !links.operation_ended(key, now) {
        return;
    }
    match result {
        Ok(count) => links.drained(key, count, now),
        Err(error) if is_passing(&error) => links.unblock(key),
        Err(error) => links.write_failed(key, &error.into(), now),
    }
}

/// Whether an operation may simply be asked for again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN))
}

/// Long beside what the kernel takes to end an operation.
const BRIEFLY: Duration = Duration::from_millis(1);
