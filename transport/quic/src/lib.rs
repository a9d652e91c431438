//! QUIC: the transport contract over connections that are always protected and survive a change of address.
//!
//! What is said between peers, and what becomes of it when they are lost, is `mlxcel_transport::core`'s affair; how
//! bytes come over a network that loses them, quinn's. Here links are opened (`dial`, `greet`, `meet`) and carried
//! (`carry`): one connection each, a stream for every slice. A thread with a runtime of its own does all of it, so that
//! callers need none.

mod books;
mod carry;
mod config;
mod dial;
mod failure;
#[cfg(fuzzing)]
pub mod fuzzing;
mod greet;
mod listen;
mod meet;
mod shared;
mod start;
mod tuning;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{BoxFuture, FutureExt};
use mlxcel_cluster_config::address;
use mlxcel_transport::domain::MAX_MESSAGE;
use mlxcel_transport::{
    Address, Batch, Caps, Channel, Completion, ConnectError, Domain, Kind, MemoryKind, Op, OpError, PeerId,
    Region, RegisterError, Stats, Tag, Transport,
};
use parking_lot::RwLock;
use tokio::time::timeout_at;

pub use config::{QuicConfig, QuicError};
use shared::Shared;

/// The QUIC transport of a process. Dropping it says good-bye to all peers.
pub struct Quic {
    shared: Arc<Shared>,
    addresses: RwLock<Vec<Address>>,
    thread: Option<JoinHandle<()>>,
}

impl Quic {
    /// Listens, and starts the transport's thread.
    ///
    /// # Errors
    /// When it cannot listen where it should, or the system has no thread left.
    pub fn new(domain: &Arc<Domain>, config: &QuicConfig) -> Result<Self, QuicError> {
        let started = start::start(domain, config)?;
        tracing::info!(target: "mlxcel::transport::quic", addresses = ?started.addresses, "listening");
        let (shared, addresses) = (started.shared, RwLock::new(started.addresses));
        Ok(Self { shared, addresses, thread: Some(started.thread) })
    }

    /// Moves to another address of this host. Links that this end opened go on from there, with what is in flight;
    /// those that peers opened are lost, since only who opened a connection may move it.
    ///
    /// A transport that listens at all addresses follows a change of the host's address without being told.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn rebind(&self, to: std::net::SocketAddr) -> Result<(), QuicError> {
        let listening = listen::listen(Some(to.ip()), to.port());
        let listening = listening.map_err(|(address, cause)| QuicError::Listen { address, cause })?;
        let _runtime = self.shared.runtime.enter();
        let moved = self.shared.endpoint.rebind(listening.socket);
        moved.map_err(|cause| QuicError::System { what: "another socket", cause })?;
        *self.addresses.write() = listening.addresses;
        Ok(())
    }

    /// An operation whose deadline is watched.
    fn operation(&self, deadline: Instant) -> (Op, Completion) {
        let (op, done) = Op::pending();
        self.shared.domain.watch(deadline, &done);
        (op, done)
    }
}

impl Transport for Quic {
    fn kind(&self) -> Kind {
        Kind::Quic
    }

    fn domain(&self) -> &Arc<Domain> {
        &self.shared.domain
    }

    fn caps(&self) -> Caps {
        Caps {
            native_read: false,
            native_immediate: false,
            // Where a tag is closed between the question and the copy, some datagrams are still placed.
            fences_late_writes: false,
            memory: vec![MemoryKind::Host, MemoryKind::MetalShared],
            runs_per_batch: usize::MAX,
            inline_bytes: 0,
            encrypted: true,
            rails: 1,
        }
    }

    fn addresses(&self) -> Vec<Address> {
        self.addresses.read().clone()
    }

    fn attach(&self, region: &Region) -> Result<(), RegisterError> {
        match region.memory().memory().kind() {
            MemoryKind::Host | MemoryKind::MetalShared => Ok(()),
            kind @ MemoryKind::CudaDmabuf => {
                Err(RegisterError::UnsupportedMemory { transport: Kind::Quic, kind })
            }
        }
    }

    fn connect(
        &self,
        peer: PeerId,
        addresses: &[Address],
        deadline: Instant,
    ) -> BoxFuture<'static, Result<(), ConnectError>> {
        let theirs = addresses.iter().filter(|address| address.kind == Kind::Quic);
        let candidates: Vec<_> = theirs.map(|address| address.socket).collect();
        let addresses = address::order(&candidates, &address::local_interfaces().unwrap_or_default());
        if addresses.is_empty() {
            return async { Err(ConnectError::NoAddress(Kind::Quic)) }.boxed();
        }
        let (done, ended) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.shared.runtime.spawn(async move {
            let reached = timeout_at(deadline.into(), dial::reach(&shared, peer, &addresses)).await;
            // Who no longer waits need not know.
            let _ = done.send(reached.unwrap_or(Err(ConnectError::Timeout)));
        });
        // The sender is dropped with the transport only.
        async { ended.await.unwrap_or(Err(ConnectError::Timeout)) }.boxed()
    }

    fn disconnect(&self, peer: PeerId) {
        self.shared.books().part_from(peer);
    }

    fn write(&self, batch: &Batch, tag: Tag, deadline: Instant) -> Op {
        let (op, done) = self.operation(deadline);
        self.shared.books().start(batch.peer(), done, |link, done| link.write(batch, tag, done));
        op
    }

    fn read(&self, batch: &Batch, deadline: Instant) -> Op {
        let (op, done) = self.operation(deadline);
        self.shared.books().start(batch.peer(), done, |link, done| link.read(batch, done));
        op
    }

    fn send(&self, peer: PeerId, channel: Channel, message: Bytes, deadline: Instant) -> Op {
        if message.len() > MAX_MESSAGE {
            return Op::ended(Err(OpError::Cancelled));
        }
        let (op, done) = self.operation(deadline);
        self.shared.books().start(peer, done, |link, done| link.send(channel, message, done));
        op
    }

    /// Leaves the processor to the transport's own thread, which does everything.
    fn progress(&self) -> bool {
        std::thread::yield_now();
        false
    }

    fn stats(&self) -> Stats {
        self.shared.books().stats()
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.shared.closing.notify_one();
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
