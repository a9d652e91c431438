//! Endpoints of one process that are joined by wires with faults, in virtual time.
//!
//! The protocol is that of the real stream transports (`core`); the wires are not: they delay, are slow, break in the
//! middle of a frame, swallow what they carry, are cut and restored, as they are told and as a seed says. Nothing
//! happens unless `Network` is driven, and the same seed gives the same run.

mod endpoint;
mod wire;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::contract::{Op, OpError, PeerId};
use crate::core::LinkConfig;

pub use endpoint::Faulty;
pub use wire::Conditions;

use world::World;

/// The endpoints and what joins them.
#[derive(Debug)]
pub struct Network {
    world: Mutex<World>,
}

impl Network {
    /// A network whose endpoints are joined by `rails` wires in these conditions.
    #[must_use]
    pub fn new(seed: u64, rails: u16, conditions: Conditions, link: LinkConfig) -> Arc<Self> {
        Arc::new(Self { world: Mutex::new(World::new(seed, rails, conditions, link)) })
    }

    /// A new endpoint.
    #[must_use]
    pub fn endpoint(self: &Arc<Self>) -> Arc<Faulty> {
        let domain = self.world.lock().add();
        Arc::new(Faulty::new(Arc::clone(self), domain))
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.world.lock().now
    }

    /// Lets this much time pass.
    pub fn pass(&self, time: Duration) {
        let mut world = self.world.lock();
        let until = world.now + time;
        world.run_until(until, || false);
    }

    /// Lets time pass until the operation has ended.
    ///
    /// # Errors
    /// As it ended.
    ///
    /// # Panics
    /// When it has not ended after an hour of virtual time: every operation has a deadline.
    pub fn wait(&self, op: &Op) -> Result<(), OpError> {
        let mut world = self.world.lock();
        let until = world.now + Duration::from_secs(3600);
        world.run_until(until, || op.outcome().is_some());
        op.outcome().expect("every operation ends with its deadline")
    }

    /// Breaks all wires between two endpoints; none is made anew before `restore`.
    pub fn cut(&self, one: PeerId, other: PeerId) {
        self.world.lock().cut(one, other);
    }

    /// Lets two endpoints be joined again, which the one that connected sees to.
    pub fn restore(&self, one: PeerId, other: PeerId) {
        self.world.lock().restore(one, other);
    }

    /// Has all wires between two endpoints swallow what they carry, without either side being told.
    pub fn swallow(&self, one: PeerId, other: PeerId) {
        self.world.lock().swallow(one, other);
    }

    /// Breaks one of the wires between two endpoints, in the middle of what it carries.
    pub fn break_one(&self, one: PeerId, other: PeerId) {
        self.world.lock().break_one(one, other);
    }

    /// Ends an endpoint as a process that dies does.
    pub fn kill(&self, peer: PeerId) {
        self.world.lock().kill(peer);
    }

    /// Stops an endpoint, or lets it go on, as a process that is stopped.
    pub fn freeze(&self, peer: PeerId, frozen: bool) {
        self.world.lock().freeze(peer, frozen);
    }

    /// Changes the conditions of one wire between two endpoints; `false` when there is none with this number.
    pub fn set_conditions(&self, one: PeerId, other: PeerId, wire: usize, conditions: Conditions) -> bool {
        self.world.lock().set_conditions(one, other, wire, conditions)
    }
}

#[cfg(test)]
mod tests;
