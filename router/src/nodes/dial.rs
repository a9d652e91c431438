//! Nodes given by address, for networks that multicast does not pass.
//!
//! Finds out whose key answers at the address and hands the node to `members`, which treats it like
//! any other; looks again whenever it is not connected.

use std::net::SocketAddr;
use std::time::Duration;

use mlxcel_cluster_config::discovery::{Peer, Role};
use mlxcel_cluster_config::tls::{self, Expect};
use mlxcel_cluster_config::{ConnectError, Fingerprint, LinkCause};
use mlxcel_protocol::PROTOCOL_VERSION;
use tokio::time::{sleep, timeout};

use super::members::Members;
use super::roster::now;
use crate::core::fleet::NodeId;

/// Keeps the node at `address` ("host:port") known to `members`. Never ends.
pub(crate) async fn keep_dialling(members: Members, address: String) {
    let mut failures = 0;
    let mut told = None;
    loop {
        match look(&members, &address).await {
            Ok((id, at)) => {
                failures = 0;
                told = None;
                members.dialled(&address, None);
                members.join(peer(id, at, &address));
                wait_until_gone(&members, id).await;
            }
            Err(error) => {
                if told.as_ref() != Some(&error.cause) {
                    tracing::warn!("no link to node {address}: {}", error.cause);
                    told = Some(error.cause.clone());
                }
                members.dialled(&address, Some(&error));
                sleep(pause(failures)).await;
                failures += 1;
            }
        }
    }
}

/// Whose key answers there.
async fn look(members: &Members, address: &str) -> Result<(Fingerprint, SocketAddr), ConnectError> {
    let resolved = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(address)).await;
    let unresolved = |detail: String| ConnectError { address: None, cause: LinkCause::Other { detail } };
    let addresses: Vec<SocketAddr> = match resolved {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(unresolved(format!("cannot resolve '{address}': {error}"))),
        Err(_) => return Err(unresolved(format!("resolving '{address}' takes too long"))),
    };
    let identity = &members.introduction().identity;
    let (stream, id) = tls::connect_any(&addresses, identity, Expect::Any).await?;
    let at = stream.get_ref().0.peer_addr();
    let at = at.map_err(|error| unresolved(format!("lost '{address}': {error}")))?;
    Ok((id, at))
}

fn peer(id: Fingerprint, at: SocketAddr, address: &str) -> Peer {
    Peer {
        id,
        role: Role::Node,
        // Both are told by the introduction.
        cluster: None,
        protocol_version: PROTOCOL_VERSION,
        software_version: String::new(),
        hostname: address.to_owned(),
        addresses: vec![at],
    }
}

/// Ends when the node has not been connected for a while. Until then `members` retries on its own; another
/// look finds out whether a different key answers there now.
async fn wait_until_gone(members: &Members, id: Fingerprint) {
    let node = NodeId::new(&id.to_string());
    let mut last_alive = now();
    while now().saturating_duration_since(last_alive) < SETTLE {
        sleep(GLANCE).await;
        if members.roster().fleet(|fleet| fleet.get(&node).is_some_and(|m| m.alive())) {
            last_alive = now();
        }
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE)
}

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
