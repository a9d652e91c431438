//! RDMA: the transport contract over reliable connections of verbs, as InfiniBand and RoCE have them.
//!
//! What is said between peers, and what becomes of it when they are lost, is `mlxcel_transport::core`'s affair. Here two
//! ends meet over a socket (`meet`), and their devices move the bytes (`connection`): a write is announced, placed by the
//! peer's device, and counted when that says so; a read is the device's alone. libibverbs is opened when a transport is
//! made (`verbs`): a program starts where there is none.
#![cfg(target_os = "linux")]

mod admissions;
mod books;
mod cache;
mod config;
mod connection;
mod credit;
mod dial;
mod driver;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gid;
mod leases;
mod meet;
mod posted;
mod reach;
mod shared;
mod socket;
mod verbs;
pub mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
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

pub use config::{RdmaConfig, RdmaError, Unavailable};

use books::Books;
use connection::Adapter;
use reach::Reach;
use shared::Shared;
use socket::Protection;
use verbs::Port;

/// The RDMA transport of a process. Dropping it says good-bye to all peers.
pub struct Rdma {
    shared: Arc<Shared>,
    addresses: Vec<Address>,
    thread: Option<JoinHandle<()>>,
}

impl Rdma {
    /// Opens the device, listens, and starts the transport's thread.
    ///
    /// # Errors
    /// When this host has no RDMA, it cannot listen where it should, or the system lacks something.
    pub fn new(domain: &Arc<Domain>, config: &RdmaConfig) -> Result<Self, RdmaError> {
        let port = Arc::new(verbs::find_port(config.device.as_deref())?);
        let system = |what| move |cause| RdmaError::System { what, cause };
        let (listener, addresses) = listen(config, &port)?;
        let channel = verbs::Channel::new(&port.device).map_err(system("a completion channel"))?;
        let reach = Reach::new(Arc::clone(&port.device));
        tracing::info!(
            target: "mlxcel::transport::rdma", device = port.device.name(), ?addresses, "listening"
        );
        let adapter = Adapter { port, channel: Arc::new(channel), reach, domain: Arc::clone(domain) };
        let books = Books::new(domain, config.silence_limit);
        let shared = Shared::new(Arc::new(adapter), Protection::new(&config.security), books);
        let shared = Arc::new(shared.map_err(system("an event"))?);
        let thread = std::thread::Builder::new().name("rdma".into());
        let thread = {
            let shared = Arc::clone(&shared);
            thread.spawn(move || driver::run(&shared, &listener)).map_err(system("a thread"))?
        };
        Ok(Self { shared, addresses, thread: Some(thread) })
    }

    /// The device that moves the bytes, such as `mlx5_0`.
    #[must_use]
    pub fn device(&self) -> &str {
        self.shared.adapter.port.device.name()
    }

    /// An operation whose deadline is watched.
    fn operation(&self, deadline: Instant) -> (Op, Completion) {
        let (op, done) = Op::pending();
        self.shared.adapter.domain.watch(deadline, &done);
        (op, done)
    }
}

/// A socket that peers find, and where.
fn listen(config: &RdmaConfig, port: &Port) -> Result<(TcpListener, Vec<Address>), RdmaError> {
    let own = port.gid.ip().filter(|ip| match ip {
        IpAddr::V4(_) => true,
        // Its scope means nothing elsewhere.
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    });
    let ip = config.bind.or(own).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let wanted = SocketAddr::new(ip, config.port);
    let refused = |cause| RdmaError::Listen { address: wanted, cause };
    let listener = TcpListener::bind(wanted).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let socket = listener.local_addr().map_err(refused)?;
    let sockets = if ip.is_unspecified() {
        address::reachable_at(socket.port(), &address::local_interfaces().unwrap_or_default())
    } else {
        vec![socket]
    };
    let addresses = sockets.into_iter().map(|socket| Address { kind: Kind::Rdma, socket }).collect();
    Ok((listener, addresses))
}

impl Transport for Rdma {
    fn kind(&self) -> Kind {
        Kind::Rdma
    }

    fn domain(&self) -> &Arc<Domain> {
        &self.shared.adapter.domain
    }

    fn caps(&self) -> Caps {
        Caps {
            native_read: self.shared.adapter.port.reads > 0,
            native_immediate: true,
            // A device knows no tags.
            fences_late_writes: false,
            memory: vec![MemoryKind::Host],
            runs_per_batch: usize::MAX,
            inline_bytes: 0,
            encrypted: false,
            rails: 1,
        }
    }

    fn addresses(&self) -> Vec<Address> {
        self.addresses.clone()
    }

    fn attach(&self, region: &Region) -> Result<(), RegisterError> {
        let memory = region.memory();
        let kind = memory.memory().kind();
        if kind != MemoryKind::Host {
            return Err(RegisterError::UnsupportedMemory { transport: Kind::Rdma, kind });
        }
        // What the device refuses, such as for a limit on locked memory, goes through packets.
        if let Err(error) = self.shared.adapter.reach.register(memory, region.key().access) {
            let (device, len) = (self.device(), region.len());
            tracing::warn!(target: "mlxcel::transport::rdma", device, len, %error, "a region is not registered");
        }
        Ok(())
    }

    fn connect(
        &self,
        peer: PeerId,
        addresses: &[Address],
        deadline: Instant,
    ) -> BoxFuture<'static, Result<(), ConnectError>> {
        let theirs = addresses.iter().filter(|address| address.kind == Kind::Rdma);
        let candidates: Vec<_> = theirs.map(|address| address.socket).collect();
        let addresses = address::order(&candidates, &address::local_interfaces().unwrap_or_default());
        if addresses.is_empty() {
            return async { Err(ConnectError::NoAddress(Kind::Rdma)) }.boxed();
        }
        let (done, ended) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("rdma-call".into()).spawn(move || {
            // Who no longer waits need not know.
            let _ = done.send(dial::reach(&shared, peer, &addresses, deadline));
        });
        let unable = thread.err().map(|cause| ConnectError::Unreachable {
            address: Kind::Rdma.to_string(),
            detail: cause.to_string(),
        });
        async move {
            match unable {
                Some(error) => Err(error),
                // The thread always sends.
                None => ended.await.unwrap_or(Err(ConnectError::Timeout)),
            }
        }
        .boxed()
    }

    fn disconnect(&self, peer: PeerId) {
        self.shared.books().part_from(peer, Instant::now());
        self.shared.wake.ring();
    }

    fn write(&self, batch: &Batch, tag: Tag, deadline: Instant) -> Op {
        let (op, done) = self.operation(deadline);
        self.shared.books().start(batch.peer(), done, |link, done| link.write(batch, tag, done));
        op
    }

    fn read(&self, batch: &Batch, deadline: Instant) -> Op {
        let (op, done) = self.operation(deadline);
        self.shared.books().read(batch, done);
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

    fn progress(&self) -> bool {
        self.shared.drive()
    }

    fn stop_driving(&self) {
        self.shared.stop_driving();
    }

    fn stats(&self) -> Stats {
        self.shared.books().stats()
    }
}

impl Drop for Rdma {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake.ring();
        let Some(thread) = self.thread.take() else { return };
        // Work that the thread itself does may hold the last reference; it then ends by itself.
        if thread.thread().id() != std::thread::current().id() {
            // It has no way to panic that a join could mend.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
