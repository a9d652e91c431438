//! Two ends meet: who calls whom, whether that is welcome, and how their queue pairs find each other.
//!
//! Over a socket, the caller says hello and where its queue pair is; the called one answers with where its own is,
//! connected already; the caller connects, and says so. Both keep the socket: it is closed when a process dies.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mlxcel_cluster_config::Fingerprint;
use mlxcel_transport::core::hello::{Answer, Hello, HelloError, Refusal};
use mlxcel_transport::core::{Link, LinkConfig};
use mlxcel_transport::domain::Kick;
use mlxcel_transport::{ConnectError, Kind, PeerId, PeerLoss};

use crate::books::{Books, Name, Peer};
use crate::connection::{Connection, RAIL};
use crate::shared::Shared;
use crate::socket::Socket;
use crate::wire::{AddressError, QueuePairAddress};

/// Two ends that have met.
pub(crate) struct Met {
    name: Name,
    theirs: u64,
    connection: Connection,
    socket: Socket,
}

/// Why two ends did not meet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMet {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Words(#[from] HelloError),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("it was refused: {0:?}")]
    Refused(Refusal),
}

impl NotMet {
    /// What whoever called `address` is told.
    pub(crate) fn told(self, address: SocketAddr) -> ConnectError {
        let address = address.to_string();
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::TimedOut => ConnectError::Timeout,
            Self::Io(error) if error.kind() == io::ErrorKind::WouldBlock => ConnectError::Timeout,
            Self::Io(error) if error.get_ref().is_some_and(|cause| cause.is::<rustls::Error>()) => {
                ConnectError::Untrusted { address, detail: error.to_string() }
            }
            Self::Io(error) => ConnectError::Unreachable { address, detail: error.to_string() },
            Self::Words(HelloError::Version { theirs, ours }) => ConnectError::Version { ours, theirs },
            Self::Words(error) => ConnectError::Untrusted { address, detail: error.to_string() },
            Self::Address(error) => ConnectError::Untrusted { address, detail: error.to_string() },
            Self::Refused(Refusal::AnotherPeer) => ConnectError::AnotherPeer { address },
            Self::Refused(Refusal::Unwelcome | Refusal::Forgotten) => {
                ConnectError::Untrusted { address, detail: "it takes no connection of this host".into() }
            }
        }
    }
}

/// Calls a peer at an address.
pub(crate) fn call(
    shared: &Shared,
    peer: PeerId,
    address: SocketAddr,
    until: Instant,
) -> Result<Met, NotMet> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::from(io::ErrorKind::TimedOut).into());
    }
    let stream = TcpStream::connect_timeout(&address, left)?;
    // Small words must not wait for each other; a socket that cannot be told works, only slower.
    let _ = stream.set_nodelay(true);
    let mut socket = shared.protection.call(stream, until)?;
    let mut connection = Connection::new(&shared.adapter)?;
    let ours = shared.books().new_incarnation();
    let from = shared.adapter.domain.id();
    let hello = Hello { from, to: peer, incarnation: ours, known: None, rail: RAIL, rails: 1 };
    socket.say(&[&hello.to_bytes()[..], &connection.address().to_bytes()].concat())?;
    let theirs = match Answer::parse(&socket.hear()?)? {
        Answer::Accepted { incarnation, .. } => incarnation,
        Answer::Refused(refusal) => return Err(NotMet::Refused(refusal)),
    };
    connection.connect(&QueuePairAddress::parse(&socket.hear()?)?)?;
    socket.say(&[READY])?;
    Ok(Met { name: Name { peer, ours }, theirs, connection, socket })
}

/// Answers a caller.
pub(crate) fn answer(shared: &Shared, stream: TcpStream, until: Instant) -> Result<Met, NotMet> {
    // As above.
    let _ = stream.set_nodelay(true);
    let mut socket = shared.protection.answer(stream, until)?;
    let words = socket.hear()?;
    let hello = match Hello::parse(&words) {
        Ok(hello) => hello,
        Err(error) => {
            // From what is said to it, a caller of another release learns of ours.
            socket.say(&Answer::Refused(Refusal::Unwelcome).to_bytes())?;
            return Err(error.into());
        }
    };
    let address = QueuePairAddress::parse(&socket.hear()?)?;
    let judged = shared.books().refusal(&hello, socket.key);
    if let Some(refusal) = judged {
        socket.say(&Answer::Refused(refusal).to_bytes())?;
        return Err(NotMet::Refused(refusal));
    }
    let mut connection = Connection::new(&shared.adapter)?;
    connection.connect(&address)?;
    let ours = shared.books().new_incarnation();
    let accepted = Answer::Accepted { incarnation: ours, rails: 1 };
    socket.say(&[&accepted.to_bytes()[..], &connection.address().to_bytes()].concat())?;
    if socket.hear()? != [READY] {
        return Err(HelloError::Damaged.into());
    }
    let name = Name { peer: hello.from, ours };
    Ok(Met { name, theirs: hello.incarnation, connection, socket })
}

impl Books {
    /// Why a caller is not welcome, if it is not. Of two ends that call each other at once, the one with the smaller
    /// name goes on with its own call.
    fn refusal(&self, hello: &Hello, key: Option<Fingerprint>) -> Option<Refusal> {
        if hello.to != self.domain.id() || hello.from == hello.to {
            return Some(Refusal::AnotherPeer);
        }
        if self.calling.contains_key(&hello.from) && self.domain.id() < hello.from {
            return Some(Refusal::Unwelcome);
        }
        let known = self.peers.get(&hello.from)?;
        // Of ends that name themselves after a connected peer, only those with its key are believed.
        if known.key != key || known.theirs == hello.incarnation {
            return Some(Refusal::Unwelcome);
        }
        (known.theirs > hello.incarnation).then_some(Refusal::Forgotten)
    }
}

impl Shared {
    /// Both ends know each other: from now on the connection carries their link. An older one, of an end that has lost
    /// it and begun anew, is lost here too.
    pub(crate) fn link_up(self: &Arc<Self>, met: Met) {
        let now = Instant::now();
        let Met { name, theirs, connection, socket } = met;
        let mut books = self.books();
        if self.closing.load(Ordering::Acquire) {
            return;
        }
        if books.peers.get(&name.peer).is_some_and(|known| known.theirs > theirs) {
            return;
        }
        books.lose(name.peer, PeerLoss::Broken, now);
        let config = LinkConfig { silence_limit: books.silence_limit, ..LinkConfig::default() };
        let mut link = Link::new(Arc::clone(&books.domain), name.peer, config, now);
        link.rail_up(RAIL, now);
        let key = socket.key;
        let peer = Peer { name, theirs, key, link, connection, socket, look_at: now };
        books.peers.insert(name.peer, peer);
        let shared = Arc::downgrade(self);
        let kick = Kick(Arc::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.books().turn(name.peer, Instant::now());
            }
        }));
        let domain = Arc::clone(&books.domain);
        domain.peer_connected(name.peer, Kind::Rdma, kick);
        drop(books);
        // It has a socket more to watch, and a queue to arm.
        self.wake.ring();
    }
}

/// How long a caller may take to say who it is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
const READY: u8 = 1;
