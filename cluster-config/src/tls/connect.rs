//! Opening a connection to a peer that has several addresses.
//!
//! Tries the addresses in the order given, each with a head start over the next (RFC 8305), and
//! names the cause when none works. Knows nothing of retries; `membership` decides.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsConnector;

use super::verify::{key_mismatch, tls_error};
use super::{ALPN, ClientStream, Expect, client_config, peer_fingerprint};
use crate::address::{local_interfaces, shares_network};
use crate::identity::SERVER_NAME;
use crate::{CONNECT_TIMEOUT, ConnectError, Fingerprint, Identity, LinkCause};

type Opened = (ClientStream, Fingerprint);

/// Connects to one address: the stream and the peer's key, within [`CONNECT_TIMEOUT`].
///
/// # Errors
/// Names the address and the cause.
pub async fn connect(
    address: SocketAddr,
    identity: &Identity,
    expected: Expect,
) -> Result<(ClientStream, Fingerprint), ConnectError> {
    connect_any(&[address], identity, expected).await
}

/// Connects to the first of a peer's addresses that works, within [`CONNECT_TIMEOUT`] for all.
///
/// # Errors
/// Names the cause at the most useful address: the first, unless that one is merely unreachable.
pub async fn connect_any(
    addresses: &[SocketAddr],
    identity: &Identity,
    expected: Expect,
) -> Result<(ClientStream, Fingerprint), ConnectError> {
    let config = client_config(identity, expected);
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut attempts = Attempts::new(addresses, config, deadline);
    match attempts.first_success().await {
        Some(opened) => Ok(opened),
        None => Err(attempts.verdict()),
    }
}

struct Attempts<'a> {
    addresses: &'a [SocketAddr],
    config: Arc<ClientConfig>,
    deadline: Instant,
    head_start: Duration,
    running: JoinSet<(usize, Result<Opened, LinkCause>)>,
    started: usize,
    /// The outcome of each failed attempt, by position in `addresses`.
    failed: Vec<Option<LinkCause>>,
}

impl<'a> Attempts<'a> {
    fn new(addresses: &'a [SocketAddr], config: Arc<ClientConfig>, deadline: Instant) -> Self {
        let share = CONNECT_TIMEOUT / 2 / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        Self {
            addresses,
            config,
            deadline,
            head_start: share.min(HEAD_START),
            running: JoinSet::new(),
            started: 0,
            failed: vec![None; addresses.len()],
        }
    }

    /// Starts attempts one after the other until one succeeds or all have failed. Every attempt
    /// ends by the deadline, so this does too.
    async fn first_success(&mut self) -> Option<Opened> {
        let mut next_start = Instant::now();
        loop {
            let more = self.started < self.addresses.len();
            if !more && self.running.is_empty() {
                return None;
            }
            tokio::select! {
                () = sleep_until(next_start), if more => {
                    self.start_next();
                    next_start = Instant::now() + self.head_start;
                }
                Some(ended) = self.running.join_next() => match ended {
                    Ok((_, Ok(opened))) => return Some(opened),
                    Ok((position, Err(cause))) => {
                        self.failed[position] = Some(cause);
                        next_start = Instant::now();
                    }
                    Err(broken) => std::panic::resume_unwind(broken.into_panic()),
                },
            }
        }
    }

    fn start_next(&mut self) {
        let position = self.started;
        self.started += 1;
        let (address, config, deadline) = (self.addresses[position], Arc::clone(&self.config), self.deadline);
        self.running.spawn(async move { (position, attempt(address, config, deadline).await) });
    }

    fn verdict(self) -> ConnectError {
        let causes: Vec<_> = self.failed.into_iter().flatten().collect();
        let telling = causes.iter().position(|cause| *cause != LinkCause::NoRoute).unwrap_or(0);
        let (Some(cause), Some(&address)) = (causes.get(telling), self.addresses.get(telling)) else {
            return ConnectError { address: None, cause: LinkCause::NoAddress };
        };
        ConnectError { address: Some(address), cause: blame_interface(cause.clone(), address) }
    }
}

async fn attempt(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    deadline: Instant,
) -> Result<Opened, LinkCause> {
    let stream = timeout_at(deadline, TcpStream::connect(address))
        .await
        .map_err(|_| LinkCause::TimedOut)?
        .map_err(|failed| cause_of_tcp(&failed))?;
    // Small messages must not wait for the acknowledgement of the last one; a socket that
    // cannot be told works, only slower.
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(SERVER_NAME).expect("a constant that is a DNS name");
    let stream = timeout_at(deadline, TlsConnector::from(config).connect(name, stream))
        .await
        .map_err(|_| not_mlxcel("it accepts connections but does not answer"))?
        .map_err(|failed| cause_of_tls(&failed))?;
    let connection = stream.get_ref().1;
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(not_mlxcel("it does not offer HTTP/2"));
    }
    let peer = peer_fingerprint(connection).ok_or_else(|| not_mlxcel("it has no certificate"))?;
    Ok((stream, peer))
}

fn cause_of_tcp(failed: &io::Error) -> LinkCause {
    use io::ErrorKind as Kind;
    match failed.kind() {
        // A local firewall that rejects shows as a denied permission.
        Kind::ConnectionRefused | Kind::ConnectionReset | Kind::PermissionDenied => LinkCause::Refused,
        Kind::TimedOut => LinkCause::TimedOut,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
            LinkCause::NoRoute
        }
        _ => LinkCause::Other { detail: failed.to_string() },
    }
}

fn cause_of_tls(failed: &io::Error) -> LinkCause {
    let Some(error) = tls_error(failed) else {
        return not_mlxcel("it hung up during the TLS handshake");
    };
    match key_mismatch(error) {
        Some(mismatch) => LinkCause::KeyMismatch { expected: mismatch.expected, seen: mismatch.seen },
        None => LinkCause::NotMlxcel { detail: error.to_string() },
    }
}

fn not_mlxcel(detail: &str) -> LinkCause {
    LinkCause::NotMlxcel { detail: detail.to_owned() }
}

/// Silence from a network this host is not on is more likely a wrong interface than a firewall.
fn blame_interface(cause: LinkCause, address: SocketAddr) -> LinkCause {
    let elsewhere = || local_interfaces().is_ok_and(|local| !shares_network(address, &local));
    match cause {
        LinkCause::TimedOut if elsewhere() => LinkCause::WrongInterface,
        cause => cause,
    }
}

/// RFC 8305's recommended delay between attempts.
const HEAD_START: Duration = Duration::from_millis(250);
