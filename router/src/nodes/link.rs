//! One connection to a node: opened, introduced, then followed until it ends.
//!
//! Does what it is told once; `members` decides when to try again. Feeds the roster, reads nothing
//! from it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mlxcel_cluster_config::tls::{self, ClientStream, Expect};
use mlxcel_cluster_config::token::token_proof;
use mlxcel_cluster_config::{ConnectError, Fingerprint, Identity, LinkCause};
use mlxcel_protocol::PROTOCOL_VERSION;
use mlxcel_protocol::v1::node_client::NodeClient;
use mlxcel_protocol::v1::{Beat, HelloRequest, NodeState, WatchBeatsRequest, WatchStateRequest};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::roster::Roster;
use crate::core::fleet::{NodeId, SILENCE};

/// How this router introduces itself.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    pub(crate) identity: Identity,
    /// The cluster's name for people.
    pub(crate) name: String,
    pub(crate) token: Option<String>,
}

/// A node that has accepted the introduction.
#[derive(Debug)]
pub(crate) struct Introduced {
    id: NodeId,
    client: NodeClient<Channel>,
    states: Streaming<NodeState>,
    /// None of a node that does not beat.
    beats: Option<Streaming<Beat>>,
    first: NodeState,
}

/// Connects to a node at one of `addresses`, introduces the router and hears the node's first state.
pub(crate) async fn open(
    introduction: &Introduction,
    addresses: &[SocketAddr],
    expected: Fingerprint,
) -> Result<Introduced, ConnectError> {
    let expect = Expect::Exactly(expected);
    let (stream, peer) = tls::connect_any(addresses, &introduction.identity, expect).await?;
    let address = stream.get_ref().0.peer_addr().ok();
    let introduced = timeout(INTRODUCTION_TIMEOUT, introduce(introduction, stream, peer));
    let unanswered = || {
        let detail = "the node did not answer the introduction within 3 s";
        Err(call_failed(detail))
    };
    let outcome = introduced.await.unwrap_or_else(|_| unanswered());
    outcome.map_err(|cause| ConnectError { address, cause })
}

async fn introduce(
    introduction: &Introduction,
    stream: ClientStream,
    peer: Fingerprint,
) -> Result<Introduced, LinkCause> {
    let mut client = NodeClient::new(channel(stream).await?);
    let own = introduction.identity.fingerprint();
    let token = introduction.token.as_deref();
    let hello = HelloRequest {
        protocol_version: PROTOCOL_VERSION,
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: own.to_string(),
        cluster_name: introduction.name.clone(),
        token_proof: token.map_or_else(Vec::new, |t| token_proof(t, own, peer).to_vec()),
    };
    let reply = client.hello(hello).await.map_err(cause_of)?.into_inner();
    LinkCause::check_versions(PROTOCOL_VERSION, reply.protocol_version)?;
    if reply.newly_claimed {
        tracing::info!(node = %peer, cluster = %own, "claimed node");
    }
    let watch = client.watch_state(WatchStateRequest {});
    let mut states = watch.await.map_err(cause_of)?.into_inner();
    let first = states.message().await.map_err(cause_of)?;
    let beats = match client.watch_beats(WatchBeatsRequest {}).await {
        Ok(beats) => Some(beats.into_inner()),
        Err(status) if status.code() == Code::Unimplemented => None,
        Err(status) => return Err(cause_of(status)),
    };
    Ok(Introduced {
        id: NodeId::new(&peer.to_string()),
        client,
        states,
        beats,
        first: first.ok_or_else(|| call_failed("the node sent no state"))?,
    })
}

/// Follows a node's state until the connection ends; says why it did.
pub(crate) async fn follow(roster: &Roster, node: Introduced) -> String {
    let Introduced { id, client, mut states, mut beats, first } = node;
    let loss = roster.connected(&id, client);
    roster.heard(&id, &loss, first);
    let cause = loop {
        tokio::select! {
            state = states.message() => match state {
                Ok(Some(state)) => roster.heard(&id, &loss, state),
                Ok(None) => break "the node closed the connection".to_owned(),
                Err(status) => break status_line(&status),
            },
            beat = next_beat(&mut beats) => match beat {
                Ok(Some(Beat {})) => roster.beats(&id, &loss),
                Ok(None) => break "the node closed the connection".to_owned(),
                Err(status) => break status_line(&status),
            },
            cause = loss.wait() => break cause,
        }
    };
    roster.lost(&id, &loss, &cause);
    cause
}

async fn next_beat(beats: &mut Option<Streaming<Beat>>) -> Result<Option<Beat>, Status> {
    match beats {
        Some(beats) => beats.message().await,
        None => std::future::pending().await,
    }
}

/// A gRPC channel over exactly this stream: once it breaks, calls fail instead of dialling anew.
async fn channel(stream: ClientStream) -> Result<Channel, LinkCause> {
    let stream = Arc::new(Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let broken = || std::io::Error::new(std::io::ErrorKind::NotConnected, "connection lost");
        std::future::ready(stream.map(TokioIo::new).ok_or_else(broken))
    });
    // The host is never resolved; it only fills the request's authority.
    let endpoint = Endpoint::from_static("http://mlxcel.internal");
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| call_failed(&error.to_string()))
}

/// Why a call failed: the node's own cause where it gave one.
fn cause_of(status: Status) -> LinkCause {
    LinkCause::from_wire(status.details()).unwrap_or_else(|| call_failed(&status_line(&status)))
}

fn status_line(status: &Status) -> String {
    match status.message() {
        // Made here, by a library that tells of frames; the node said nothing.
        _ if std::error::Error::source(status).is_some() => {
            tracing::debug!(%status, "connection broke");
            "the connection broke".to_owned()
        }
        "" => format!("the call ended with '{}'", status.code()),
        message => message.to_owned(),
    }
}

fn call_failed(detail: &str) -> LinkCause {
    LinkCause::CallFailed { detail: detail.to_owned() }
}

const INTRODUCTION_TIMEOUT: Duration = SILENCE;
