//! The tasks that carry a link over its connection.
//!
//! Frames without payload go over the one stream that the greeting opened, in order and ahead of all others
//! (`control`); every frame with payload over a stream of its own (`send`, `take`), so that what is lost of one holds up
//! no other. The first task to end ends the link.

mod control;
pub(crate) mod frame;
mod layout;
mod pieces;
mod send;
mod take;

use std::sync::Arc;
use std::time::Instant;

use mlxcel_transport::PeerLoss;
use mlxcel_transport::core::{Link, ProtocolError};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::task::JoinSet;

use crate::books::{Name, Wakes};
use crate::failure;
use crate::shared::Shared;

pub(crate) use pieces::Pool;

/// What every task of a link needs.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Name,
    pub(crate) connection: Connection,
    pub(crate) wakes: Arc<Wakes>,
}

/// Why a task goes on no more.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The link was lost.
    Forgotten,
    /// The connection ended.
    Connection(ConnectionError),
    /// The peer broke the protocol.
    Protocol(ProtocolError),
}

impl From<ConnectionError> for Ended {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl From<ProtocolError> for Ended {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

/// Carries a link until it ends. `first` goes ahead of everything.
pub(crate) async fn carry(way: Way, (send, receive): (SendStream, RecvStream), first: Vec<u8>) {
    let mut tasks = JoinSet::new();
    tasks.spawn(control::speak(way.clone(), send, first));
    tasks.spawn(control::listen(way.clone(), receive));
    tasks.spawn(send::send(way.clone()));
    tasks.spawn(take::accept(way.clone()));
    tasks.spawn(pass_time(way.clone()));
    let ended = match tasks.join_next().await {
        Some(Ok(Err(ended))) => ended,
        Some(Err(broken)) => {
            tracing::error!(target: "mlxcel::transport::quic", peer = %way.name.peer, %broken, "a task panicked");
            Ended::Forgotten
        }
        Some(Ok(Ok(never))) => match never {},
        None => Ended::Forgotten,
    };
    let lost = |link: &mut Link| match &ended {
        Ended::Protocol(error) => link.fail(*error),
        Ended::Connection(error) => link.abandon(failure::of_link(error)),
        Ended::Forgotten => link.abandon(PeerLoss::Broken),
    };
    // It is forgotten already where this end was the one to end it.
    let _ = way.shared.ask(way.name, lost);
}

/// The link's own clock: heartbeats, silence, operations that have ended.
async fn pass_time(way: Way) -> Result<std::convert::Infallible, Ended> {
    loop {
        let next = way.shared.ask(way.name, |link| link.next_timeout())?.ok_or(Ended::Forgotten)?;
        tokio::time::sleep_until(next.into()).await;
        way.shared.ask(way.name, |link| link.handle_timeout(Instant::now()))?;
    }
}
