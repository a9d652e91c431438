//! TCP: several sockets to each peer, payloads read and written where they lie, TLS 1.3 with pinned keys.
//!
//! What is said over the sockets, and what becomes of it when one breaks, is `core`'s affair. Here sockets are opened,
//! waited for, read and written: by callers, on their own threads, while they drive (`endpoint`), else by one thread of
//! the transport, with io_uring where Linux allows it (`uring`) or when the system says that it can be done (`poll`).
//!
//! Bytes of a batch that was admitted while its tag was open may still be placed for a moment after the tag was closed,
//! uncounted.

mod config;
mod dial;
mod driver;
mod endpoint;
mod greet;
mod links;
mod listen;
mod poll;
mod rail;
mod reception;
mod rest;
#[cfg(not(fuzzing))]
mod tls;
#[cfg(fuzzing)]
pub mod tls;
#[cfg(target_os = "linux")]
mod uring;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{BoxFuture, FutureExt};
use mlxcel_cluster_config::address;

use crate::domain::MAX_MESSAGE;
use crate::{
    Address, Batch, Caps, Channel, Completion, ConnectError, Domain, Kind, MemoryKind, Op, OpError, PeerId,
    Region, RegisterError, Stats, Tag, Transport,
};

pub use config::{Driver, Security, TcpConfig, TcpError};
use endpoint::Endpoint;
use links::Command;

/// The TCP transport of a process. Dropping it says good-bye to all peers.
pub struct Tcp {
    endpoint: Arc<Endpoint>,
    addresses: Vec<Address>,
    driver: Driver,
    encrypted: bool,
    rails: u16,
    thread: Option<JoinHandle<()>>,
}

impl Tcp {
    /// Listens, and starts the transport's thread.
    ///
    /// # Errors
    /// When it cannot listen where it should, or the driver that was asked for does not work on this host.
    pub fn new(domain: &Arc<Domain>, config: TcpConfig) -> Result<Self, TcpError> {
        let (encrypted, rails) = (matches!(config.security, Security::Tls { .. }), config.rails);
        let started = driver::start(domain, &config)?;
        tracing::info!(
            target: "mlxcel::transport::tcp",
            driver = ?started.driver,
            encrypted,
            rails,
            addresses = ?started.addresses,
            "listening"
        );
        Ok(Self {
            endpoint: started.endpoint,
            addresses: started.addresses,
            driver: started.driver,
            encrypted,
            rails,
            thread: Some(started.thread),
        })
    }

    /// How the system is asked to move bytes: never `Auto`.
    #[must_use]
    pub const fn driver(&self) -> Driver {
        self.driver
    }

    /// An operation whose deadline is watched.
    fn operation(&self, deadline: Instant) -> (Op, Completion) {
        let (op, done) = Op::pending();
        self.endpoint.domain.watch(deadline, &done);
        (op, done)
    }
}

impl Transport for Tcp {
    fn kind(&self) -> Kind {
        Kind::Tcp
    }

    fn domain(&self) -> &Arc<Domain> {
        &self.endpoint.domain
    }

    fn caps(&self) -> Caps {
        Caps {
            native_read: false,
            native_immediate: false,
            fences_late_writes: false,
            memory: vec![MemoryKind::Host, MemoryKind::MetalShared],
            runs_per_batch: usize::MAX,
            inline_bytes: 0,
            encrypted: self.encrypted,
            rails: self.rails.into(),
        }
    }

    fn addresses(&self) -> Vec<Address> {
        self.addresses.clone()
    }

    fn attach(&self, region: &Region) -> Result<(), RegisterError> {
        match region.memory().memory().kind() {
            MemoryKind::Host | MemoryKind::MetalShared => Ok(()),
            kind @ MemoryKind::CudaDmabuf => {
                Err(RegisterError::UnsupportedMemory { transport: Kind::Tcp, kind })
            }
        }
    }

    fn connect(
        &self,
        peer: PeerId,
        addresses: &[Address],
        deadline: Instant,
    ) -> BoxFuture<'static, Result<(), ConnectError>> {
        let ours = addresses.iter().filter(|address| address.kind == Kind::Tcp).map(|address| address.socket);
        let candidates: Vec<_> = ours.collect();
        let addresses = address::order(&candidates, &address::local_interfaces().unwrap_or_default());
        if addresses.is_empty() {
            return async { Err(ConnectError::NoAddress(Kind::Tcp)) }.boxed();
        }
        let (done, ended) = oneshot::channel();
        self.endpoint.submit(Command::Connect { peer, addresses, deadline, done });
        // The sender is dropped with the transport only.
        async { ended.await.unwrap_or(Err(ConnectError::Timeout)) }.boxed()
    }

    fn disconnect(&self, peer: PeerId) {
        self.endpoint.submit(Command::Disconnect(peer));
    }

    fn write(&self, batch: &Batch, tag: Tag, deadline: Instant) -> Op {
        let (op, done) = self.operation(deadline);
        self.endpoint.submit(Command::Write { batch: batch.clone(), tag, done });
        op
    }

    fn read(&self, batch: &Batch, deadline: Instant) -> Op {
        let (op, done) = self.operation(deadline);
        self.endpoint.submit(Command::Read { batch: batch.clone(), done });
        op
    }

    fn send(&self, peer: PeerId, channel: Channel, message: Bytes, deadline: Instant) -> Op {
        if message.len() > MAX_MESSAGE {
            return Op::ended(Err(OpError::Cancelled));
        }
        let (op, done) = self.operation(deadline);
        self.endpoint.submit(Command::Send { peer, channel, message, done });
        op
    }

    fn progress(&self) -> bool {
        self.endpoint.progress()
    }

    fn stop_driving(&self) {
        self.endpoint.rest.stop_driving();
    }

    fn stats(&self) -> Stats {
        self.endpoint.links().stats()
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.endpoint.close();
        let Some(thread) = self.thread.take() else { return };
        // A task that the thread itself wakes may hold the last reference; it then ends by itself.
        if thread.thread().id() != std::thread::current().id() {
            // It has no way to panic that a join could mend.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
