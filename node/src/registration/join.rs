//! Asking a router to connect: for networks that multicast does not pass, and to find out why a
//! visible router stays silent.
//!
//! Asks and reports; connecting is the router's part. Trusts nothing it hears: the router still
//! has to introduce itself at the node's own port.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mlxcel_cluster_config::tls::{self, ClientStream, Expect};
use mlxcel_cluster_config::watch::ProbeOutcome;
use mlxcel_cluster_config::{CONNECT_TIMEOUT, ConnectError, Identity, LinkCause};
use mlxcel_protocol::PROTOCOL_VERSION;
use mlxcel_protocol::v1::membership_client::MembershipClient;
use mlxcel_protocol::v1::{JoinReply, JoinRequest, LinkStatus};
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tracing::{info, warn};

/// A router's address as a person gives it: `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinAddress(String);

/// A text that is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an address to join must be host:port, got `{0}`")]
pub struct JoinAddressError(String);

impl FromStr for JoinAddress {
    type Err = JoinAddressError;

    fn from_str(text: &str) -> Result<Self, JoinAddressError> {
        let parts = text.rsplit_once(':');
        let valid = parts.is_some_and(|(host, port)| {
            let port = port.parse::<u16>().is_ok_and(|port| port > 0);
            // More colons only inside the brackets of an IPv6 address.
            let bracketed = host.starts_with('[') && host.ends_with(']');
            port && !host.is_empty() && (bracketed || !host.contains(':'))
        });
        if !valid {
            return Err(JoinAddressError(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Asks routers to connect to this node.
pub(crate) struct Joiner {
    pub(crate) identity: Identity,
    /// Where the node listens; may be every address of the host.
    pub(crate) listen: SocketAddr,
}

impl Joiner {
    /// Asks one router once, and says how it took it.
    pub(crate) async fn probe(&self, addresses: &[SocketAddr], expect: Expect) -> ProbeOutcome {
        match self.ask(addresses, expect).await {
            Ok(reply) => match reply.status() {
                LinkStatus::Connected => ProbeOutcome::Connected,
                LinkStatus::Failed => ProbeOutcome::RouterCannotConnect(printable(&reply.reason)),
                LinkStatus::Connecting | LinkStatus::Unspecified => ProbeOutcome::Connecting,
            },
            Err(error) => ProbeOutcome::Failed(error),
        }
    }

    /// Keeps the router at `address` asked. Never ends; logs each new cause of failure once.
    pub(crate) async fn keep_joined(self: Arc<Self>, address: JoinAddress) {
        let mut told: Option<String> = None;
        let mut failures = 0;
        loop {
            let outcome = match resolve(&address).await {
                Ok(addresses) => self.probe(&addresses, Expect::Any).await,
                Err(error) => ProbeOutcome::Failed(error),
            };
            let trouble = match &outcome {
                ProbeOutcome::Failed(error) => Some(error.cause.to_string()),
                ProbeOutcome::RouterCannotConnect(reason) => Some(format!("the router says: {reason}")),
                ProbeOutcome::Connecting | ProbeOutcome::Connected => None,
            };
            failures = if trouble.is_some() { failures + 1 } else { 0 };
            match &trouble {
                Some(cause) if told.as_ref() != Some(cause) => {
                    warn!("no link to router {}: {cause}", address.0);
                }
                None if told.is_some() => info!("link to router {} works again", address.0),
                _ => {}
            }
            told = trouble;
            sleep(match outcome {
                ProbeOutcome::Connected => REFRESH,
                ProbeOutcome::Connecting => ASK_AGAIN_SOON,
                _ => pause(failures),
            })
            .await;
        }
    }

    async fn ask(&self, addresses: &[SocketAddr], expect: Expect) -> Result<JoinReply, ConnectError> {
        let (stream, _) = tls::connect_any(addresses, &self.identity, expect).await?;
        let address = stream.get_ref().0.peer_addr().ok();
        let mut listen = self.listen;
        if let (true, Ok(local)) = (listen.ip().is_unspecified(), stream.get_ref().0.local_addr()) {
            listen.set_ip(local.ip());
        }
        let asked = timeout(CONNECT_TIMEOUT, self.call(stream, listen)).await;
        let silent = || Err(call_failed("the router did not answer in time"));
        asked.unwrap_or_else(|_| silent()).map_err(|cause| ConnectError { address, cause })
    }

    async fn call(&self, stream: ClientStream, listen: SocketAddr) -> Result<JoinReply, LinkCause> {
        let mut client = MembershipClient::new(channel(stream).await?);
        let request = JoinRequest {
            protocol_version: PROTOCOL_VERSION,
            software_version: env!("CARGO_PKG_VERSION").into(),
            node_id: self.identity.fingerprint().to_string(),
            addresses: vec![listen.to_string()],
        };
        let reply = client.join(request).await.map_err(|status| {
            let cause = LinkCause::from_wire(status.details());
            cause.unwrap_or_else(|| call_failed(&printable(status.message())))
        })?;
        let reply = reply.into_inner();
        LinkCause::check_versions(PROTOCOL_VERSION, reply.protocol_version)?;
        Ok(reply)
    }
}

async fn resolve(address: &JoinAddress) -> Result<Vec<SocketAddr>, ConnectError> {
    let failed = |detail| ConnectError { address: None, cause: LinkCause::Other { detail } };
    match timeout(CONNECT_TIMEOUT, lookup_host(&address.0)).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(failed(format!("cannot resolve `{}`: {error}", address.0))),
        Err(_) => Err(failed(format!("resolving `{}` takes too long", address.0))),
    }
}

/// A gRPC channel over exactly this stream: once it breaks, calls fail instead of dialling anew.
async fn channel(stream: ClientStream) -> Result<Channel, LinkCause> {
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let broken = || std::io::Error::from(std::io::ErrorKind::NotConnected);
        std::future::ready(stream.ok_or_else(broken))
    });
    // Never resolved: it only fills the requests' authority.
    let endpoint = Endpoint::from_static("http://mlxcel.internal");
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| call_failed(&error.to_string()))
}

fn call_failed(detail: &str) -> LinkCause {
    LinkCause::CallFailed { detail: detail.to_owned() }
}

/// A peer's text goes to the log.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST_PAUSE)
}

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const ASK_AGAIN_SOON: Duration = Duration::from_secs(1);
/// A router that was restarted remembers no one who joined.
const REFRESH: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_join_are_host_and_port() {
        for text in ["router:7411", "10.0.0.1:1", "[fe80::1]:7411", "a.b.c:65535"] {
            assert!(text.parse::<JoinAddress>().is_ok(), "{text}");
        }
        for text in ["", "router", "router:", ":7411", "router:0", "router:70000", "fe80::1:7411"] {
            assert!(text.parse::<JoinAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<_> = (1..8).map(|failures| pause(failures).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000, 5000]);
    }
}
