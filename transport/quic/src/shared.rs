//! What callers and the tasks of a transport share: the books behind one lock, and the endpoint.
//!
//! The lock is held for bookkeeping and for copies of some datagrams at a time, never across an await.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use mlxcel_transport::core::Link;
use mlxcel_transport::{Domain, PeerId};
use parking_lot::{Mutex, MutexGuard};
use quinn::{ClientConfig, Endpoint};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use crate::books::{Books, Name};
use crate::carry::{self, Ended, Pool};
use crate::greet::GREETINGS;
use crate::meet::Met;

pub(crate) struct Shared {
    pub(crate) domain: Arc<Domain>,
    pub(crate) endpoint: Endpoint,
    pub(crate) client: ClientConfig,
    pub(crate) runtime: Handle,
    /// Ends the transport's thread.
    pub(crate) closing: Notify,
    pub(crate) pool: Pool,
    /// Room for callers who have not said who they are.
    pub(crate) greetings: Semaphore,
    books: Mutex<Books>,
    turns: Mutex<HashMap<PeerId, Weak<Turn>>>,
}

/// Whose turn it is to call a peer.
pub(crate) type Turn = tokio::sync::Mutex<()>;

impl Shared {
    pub(crate) fn new(books: Books, endpoint: Endpoint, client: ClientConfig, runtime: Handle) -> Self {
        let domain = Arc::clone(&books.domain);
        let (pool, books, turns) = (Pool::default(), Mutex::new(books), Mutex::default());
        let (closing, greetings) = (Notify::new(), Semaphore::new(GREETINGS));
        Self { domain, endpoint, client, runtime, closing, pool, greetings, books, turns }
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock()
    }

    /// Has a link do something.
    pub(crate) fn ask<R>(&self, name: Name, ask: impl FnOnce(&mut Link) -> R) -> Result<R, Ended> {
        self.books().ask_of(name, ask).ok_or(Ended::Forgotten)
    }

    /// As [`ask`](Self::ask), of who sends what the link wants sent, and need not be woken for it.
    pub(crate) fn ask_quietly<R>(&self, name: Name, ask: impl FnOnce(&mut Link) -> R) -> Result<R, Ended> {
        let mut books = self.books();
        let peer = books.peers.get_mut(&name.peer).filter(|peer| peer.name == name);
        Ok(ask(&mut peer.ok_or(Ended::Forgotten)?.link))
    }

    pub(crate) fn is_connected(&self, peer: PeerId) -> bool {
        self.books().peers.contains_key(&peer)
    }

    /// One call to a peer at a time: the lock to hold meanwhile.
    pub(crate) fn turn(&self, peer: PeerId) -> Arc<Turn> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(&peer).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(peer, Arc::downgrade(&turn));
        turn
    }

    /// Both ends know each other: from now on the connection carries their link.
    pub(crate) fn link_up(self: &Arc<Self>, met: Met, control: (quinn::SendStream, quinn::RecvStream)) {
        let (name, connection) = (met.name, met.connection.clone());
        let Some(wakes) = self.books().link_up(met, Instant::now()) else { return };
        let shared = Arc::clone(self);
        self.runtime.spawn(carry::carry(carry::Way { shared, name, connection, wakes }, control, Vec::new()));
    }
}
