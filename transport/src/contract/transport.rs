//! The trait that every way of moving bytes implements, and the conveniences that follow from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::blocking::block_on;
use super::{
    Access, Address, Batch, Caps, Channel, Kind, Memory, Op, OpError, PeerId, Region, RegisterError, Stats,
    Tag,
};
use crate::domain::Domain;

/// Why a peer could not be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there.
    #[error("nobody answers at {address}: {detail}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        detail: String,
    },
    /// No address is of this transport.
    #[error("the peer has no {0} address")]
    NoAddress(Kind),
    /// Somebody else answers, or does not trust us.
    #[error("{address} was not trusted: {detail}")]
    Untrusted {
        /// Where.
        address: String,
        /// What the handshake said.
        detail: String,
    },
    /// The peer speaks another version of the protocol.
    #[error(
        "the peer speaks version {theirs} of the transport's protocol, we speak {ours}; run the same release of mlxcel on both hosts"
    )]
    Version {
        /// Ours.
        ours: u16,
        /// The peer's.
        theirs: u16,
    },
    /// Another process answers than the one that was meant: it was restarted.
    #[error(
        "{address} is another process than the one that gave this address; ask the cluster for its present one"
    )]
    AnotherPeer {
        /// Where.
        address: String,
    },
    /// The two sides have no transport in common that is allowed.
    #[error("the two sides have no way in common that the policy allows")]
    NoCommonWay,
    /// It took too long.
    #[error("the peer did not answer in time")]
    Timeout,
}

/// Why a peer counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerLoss {
    /// It said good-bye, or was disconnected here.
    #[error("it disconnected")]
    Closed,
    /// No rail is left.
    #[error("every connection to it broke")]
    Broken,
    /// It has been silent for too long.
    #[error("it has been silent for too long")]
    Silent,
    /// It broke the protocol.
    #[error("it broke the protocol: {0}")]
    Protocol(&'static str),
}

/// A way of moving bytes between this process and its peers.
///
/// Every method returns at once. Every operation ends, with its deadline at the latest; when a peer is lost, all
/// operations with it end within a second. A batch is written whole or not at all as far as counters tell.
pub trait Transport: Send + Sync {
    /// Which way it is.
    fn kind(&self) -> Kind;

    /// The books of this process: regions, counters, messages, peers, deadlines.
    fn domain(&self) -> &Arc<Domain>;

    /// What it can do on this host.
    fn caps(&self) -> Caps;

    /// Where it listens, one address for each interface it found.
    fn addresses(&self) -> Vec<Address>;

    /// Makes a region reachable over this transport, where that takes more than its being in the domain.
    ///
    /// # Errors
    /// When the memory is of a kind it cannot reach, or its device refuses.
    fn attach(&self, region: &Region) -> Result<(), RegisterError>;

    /// Connects to `peer`, over as many rails as both sides want. Connecting to who is connected is done at once.
    /// Peers that connect to us become known through `Domain::connected`.
    fn connect(
        &self,
        peer: PeerId,
        addresses: &[Address],
        deadline: Instant,
    ) -> BoxFuture<'static, Result<(), ConnectError>>;

    /// Says good-bye: both sides end what is in flight as lost.
    fn disconnect(&self, peer: PeerId);

    /// Writes `batch`, and then counts it in `tag` at the destination. Done means that it has been counted.
    /// Local bytes must not change until the operation has ended; they may when it has, however it ended.
    fn write(&self, batch: &Batch, tag: Tag, deadline: Instant) -> Op;

    /// Reads `batch`. Done means that all bytes are there.
    fn read(&self, batch: &Batch, deadline: Instant) -> Op;

    /// Sends at most [`MAX_MESSAGE`](crate::domain::MAX_MESSAGE) bytes, to be read with `Domain::receive`, in order
    /// with other messages on this channel. Done means that it is in the peer's hands, not that it has been read.
    /// Waits while the peer has not read what it was sent before.
    ///
    /// A longer message ends as cancelled.
    fn send(&self, peer: PeerId, channel: Channel, message: Bytes, deadline: Instant) -> Op;

    /// Does what can be done now on the calling thread; whether anything was done. Transports have threads of their
    /// own for the time when nobody calls this; who cannot afford their waking up does.
    fn progress(&self) -> bool;

    /// Says that the caller, who has called `progress`, is about to wait in another way: the transport's own threads,
    /// which rest while somebody drives, go on at once. Who says nothing is noticed within a millisecond.
    fn stop_driving(&self) {}

    /// What it has done and is doing.
    fn stats(&self) -> Stats;
}

/// What follows from the methods of every transport.
pub trait TransportExt: Transport {
    /// Registers memory with the domain and this transport.
    ///
    /// # Errors
    /// As [`Transport::attach`].
    fn register(&self, memory: Memory, access: Access) -> Result<Region, RegisterError> {
        let region = self.domain().register(memory, access);
        self.attach(&region)?;
        Ok(region)
    }

    /// Waits on the calling thread: drives the transport for a while, then sleeps.
    ///
    /// # Errors
    /// As the operation ended.
    fn wait(&self, op: Op) -> Result<(), OpError> {
        self.wait_spinning(op, SPIN)
    }

    /// As [`wait`](Self::wait), driving the transport for `spin` before it sleeps.
    ///
    /// # Errors
    /// As the operation ended.
    fn wait_spinning(&self, op: Op, spin: Duration) -> Result<(), OpError> {
        let begun = Instant::now();
        loop {
            if let Some(result) = op.outcome() {
                return result;
            }
            if !self.progress() {
                std::hint::spin_loop();
            }
            if begun.elapsed() > spin {
                self.stop_driving();
                return block_on(op);
            }
        }
    }
}

impl<T: Transport + ?Sized> TransportExt for T {}

/// Longer than a round trip between hosts of one rack, short beside a wake-up in a virtual machine times a few.
const SPIN: Duration = Duration::from_micros(100);
