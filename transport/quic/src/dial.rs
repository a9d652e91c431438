//! Finding a peer that has several addresses.
//!
//! Calls them in the order given, each with a head start over the next (RFC 8305), until one answers as the peer that
//! is meant. Knows no links beyond whether there is one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mlxcel_transport::core::hello::{Answer, Hello, Refusal};
use mlxcel_transport::{ConnectError, Kind, PeerId};
use tokio::time::{Instant, sleep_until};

use crate::books::{Name, UNWANTED};
use crate::greet::{self, Called};
use crate::meet::Met;
use crate::shared::Shared;

/// Connects to a peer, unless it is connected.
pub(crate) async fn reach(
    shared: &Arc<Shared>,
    peer: PeerId,
    addresses: &[SocketAddr],
) -> Result<(), ConnectError> {
    let turn = shared.turn(peer);
    let turn = turn.lock().await;
    if shared.is_connected(peer) {
        return Ok(());
    }
    let ours = shared.books().new_incarnation();
    let hello =
        Hello { from: shared.domain.id(), to: peer, incarnation: ours, known: None, rail: 0, rails: 1 };
    match search(shared, addresses, hello).await {
        Ok(Found { theirs, called: Called { key, connection, control, .. } }) => {
            shared.link_up(Met { name: Name { peer, ours }, theirs, key, connection }, control);
            Ok(())
        }
        Err(NotFound { error, crossed }) => {
            drop(turn);
            let patience = if crossed { CROSSING } else { Duration::ZERO };
            let connected = shared.domain.connected(peer, std::time::Instant::now() + patience);
            connected.await.map_err(|_| error)
        }
    }
}

/// Somebody who takes a link with us.
struct Found {
    /// The name of the peer's end.
    theirs: u64,
    called: Called,
}

struct NotFound {
    error: ConnectError,
    /// Whether the call was one too many: the peer's own may be about to become a link.
    crossed: bool,
}

/// The first address where the peer takes a link.
async fn search(shared: &Shared, addresses: &[SocketAddr], hello: Hello) -> Result<Found, NotFound> {
    let mut waiting = addresses.iter().copied();
    let mut next = waiting.next();
    let mut start = Instant::now();
    let mut calls = FuturesUnordered::new();
    let mut told = NotFound { error: ConnectError::NoAddress(Kind::Quic), crossed: false };
    loop {
        tokio::select! {
            () = sleep_until(start), if next.is_some() => {
                let address = next.take().expect("checked above");
                calls.push(async move { (address, greet::call(shared, address, hello).await) });
                next = waiting.next();
                start = Instant::now() + HEAD_START;
            }
            Some((address, outcome)) = calls.next(), if !calls.is_empty() => {
                start = Instant::now();
                match outcome.map(|called| (called.answer, called)) {
                    Ok((Answer::Accepted { incarnation, .. }, called)) => {
                        return Ok(Found { theirs: incarnation, called });
                    }
                    Ok((Answer::Refused(refusal), called)) => {
                        called.connection.close(UNWANTED, b"understood");
                        told.crossed |= refusal != Refusal::AnotherPeer;
                        told.hear(refused(address, refusal));
                    }
                    Err(error) => told.hear(error),
                }
            }
            else => return Err(told),
        }
    }
}

impl NotFound {
    /// Somebody who answers and refuses says more than nobody.
    fn hear(&mut self, error: ConnectError) {
        let telling = |error: &ConnectError| {
            !matches!(error, ConnectError::Unreachable { .. } | ConnectError::NoAddress(_))
        };
        if !telling(&self.error) && (telling(&error) || matches!(self.error, ConnectError::NoAddress(_))) {
            self.error = error;
        }
    }
}

fn refused(address: SocketAddr, refusal: Refusal) -> ConnectError {
    let address = address.to_string();
    match refusal {
        Refusal::AnotherPeer => ConnectError::AnotherPeer { address },
        Refusal::Unwelcome | Refusal::Forgotten => {
            ConnectError::Untrusted { address, detail: "it takes no connection of this host".into() }
        }
    }
}

/// RFC 8305's recommended delay between attempts.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long a call of the peer's that crossed ours may take to become a link here.
const CROSSING: Duration = Duration::from_secs(1);
