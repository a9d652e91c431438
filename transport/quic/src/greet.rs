//! From a connection to a link: the handshake, and who is who.
//!
//! Whoever opens a connection opens its one stream with two directions, and says hello there; it is answered, and from
//! then on the stream carries the frames that have no payload. Whether a caller is welcome is decided by `meet`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlxcel_cluster_config::Fingerprint;
use mlxcel_cluster_config::tls::{certificate_fingerprint, server_name};
use mlxcel_transport::ConnectError;
use mlxcel_transport::core::hello::{ANSWER_BYTES, Answer, HELLO_BYTES, Hello, Refusal};
use quinn::{Connection, ConnectionError, Incoming, ReadError, ReadExactError, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::books::{Name, UNWANTED, Wakes};
use crate::carry::{Way, carry};
use crate::failure;
use crate::meet::Caller;
use crate::shared::Shared;

/// A peer that was called, and what it said.
pub(crate) struct Called {
    pub(crate) answer: Answer,
    pub(crate) key: Fingerprint,
    pub(crate) connection: Connection,
    pub(crate) control: (SendStream, RecvStream),
}

/// Calls `address`, and says hello there.
pub(crate) async fn call(shared: &Shared, address: SocketAddr, hello: Hello) -> Result<Called, ConnectError> {
    let unreachable = |detail: String| ConnectError::Unreachable { address: address.to_string(), detail };
    let name = server_name().to_str().into_owned();
    let connecting = shared.endpoint.connect_with(shared.client.clone(), address, &name);
    let connecting = connecting.map_err(|error| unreachable(error.to_string()))?;
    let lost = |error: ConnectionError| failure::of_call(address, &error);
    let connection = connecting.await.map_err(lost)?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(lost)?;
    if let Err(error) = send.write_all(&hello.to_bytes()).await {
        return Err(connection.close_reason().map_or_else(|| unreachable(error.to_string()), lost));
    }
    let mut answer = [0; ANSWER_BYTES];
    match receive.read_exact(&mut answer).await {
        Ok(()) => {}
        Err(ReadExactError::ReadError(ReadError::ConnectionLost(error))) => return Err(lost(error)),
        Err(other) => return Err(unreachable(other.to_string())),
    }
    let answer = Answer::parse(&answer).map_err(|error| failure::of_words(address, error))?;
    let key = key_of(&connection).ok_or_else(|| unreachable("it has shown no key".into()))?;
    Ok(Called { answer, key, connection, control: (send, receive) })
}

/// Answers a caller.
pub(crate) async fn answer(shared: Arc<Shared>, incoming: Incoming) {
    let Ok(_room) = shared.greetings.try_acquire() else { return incoming.refuse() };
    let from = incoming.remote_address();
    if timeout(PATIENCE, receive(&shared, incoming)).await.is_err() {
        tracing::debug!(target: "mlxcel::transport::quic", %from, "a caller did not say hello in time");
    }
}

async fn receive(shared: &Arc<Shared>, incoming: Incoming) {
    let from = incoming.remote_address();
    let refused = |error: &dyn std::fmt::Display| {
        tracing::debug!(target: "mlxcel::transport::quic", %from, %error, "a caller did not become a peer");
    };
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error) => return refused(&error),
    };
    let (mut send, mut receive) = match connection.accept_bi().await {
        Ok(control) => control,
        Err(error) => return refused(&error),
    };
    let mut hello = [0; HELLO_BYTES];
    if let Err(error) = receive.read_exact(&mut hello).await {
        return refused(&error);
    }
    let Some(key) = key_of(&connection) else { return refused(&"it has shown no key") };
    let (answer, link) = match Hello::parse(&hello) {
        Ok(hello) => judge(shared, Caller { hello, key, connection: connection.clone() }).await,
        // From what is said to it, a caller of another release learns of ours.
        Err(error) => {
            refused(&error);
            (Answer::Refused(Refusal::Unwelcome), None)
        }
    };
    match link {
        // The link's clock runs from now on, whether the caller takes the answer or not.
        Some((name, wakes)) => {
            let way = Way { shared: Arc::clone(shared), name, connection, wakes };
            shared.runtime.spawn(carry(way, (send, receive), answer.to_bytes().to_vec()));
        }
        None => match send.write_all(&answer.to_bytes()).await {
            Ok(()) => part(&connection, send).await,
            Err(error) => refused(&error),
        },
    }
}

/// What a caller is answered. Of two ends that call each other at once, the one with the smaller name finishes its own
/// call first; the other's is then one too many.
async fn judge(shared: &Shared, caller: Caller) -> (Answer, Option<(Name, Arc<Wakes>)>) {
    if shared.domain.id() < caller.hello.from {
        let turn = shared.turn(caller.hello.from);
        // Our own call may lead nowhere, which must not keep the caller.
        let _ = timeout(TURN, turn.lock()).await;
    }
    shared.books().judge(caller, Instant::now())
}

/// Closes a connection when the caller has read why: it hangs up.
async fn part(connection: &Connection, mut send: SendStream) {
    // That it is finished already is no other end than that.
    let _ = send.finish();
    let _ = timeout(PARTING, connection.closed()).await;
    connection.close(UNWANTED, b"refused");
}

/// The key that the other end has shown.
fn key_of(connection: &Connection) -> Option<Fingerprint> {
    let shown = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    certificate_fingerprint(shown.first()?)
}

/// How many callers may be saying who they are at once.
pub(crate) const GREETINGS: usize = 256;
/// How long a caller may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a caller waits for our own call to end.
const TURN: Duration = Duration::from_millis(500);
const PARTING: Duration = Duration::from_secs(1);
