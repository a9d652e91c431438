//! Mutually authenticated TLS 1.3 between hosts that know each other by key.
//!
//! Every certificate is self-signed: the handshake proves that the peer holds its ed25519 key
//! and tells which, nothing more. Knows nothing of trust: a client names the key it expects,
//! and a server's `claim` judges the caller's.

mod connect;
mod data_plane;
mod verify;

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, client, server};

use crate::{CONNECT_TIMEOUT, Fingerprint, Identity};

pub use connect::{connect, connect_any};
pub use data_plane::{DataPlane, Trust, server_name};
use verify::KeyVerifier;

/// A connection this host opened.
pub type ClientStream = client::TlsStream<TcpStream>;
/// A connection a peer opened.
pub type ServerStream = server::TlsStream<TcpStream>;

/// The key a client wants to find at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// This key only.
    Exactly(Fingerprint),
    /// Any key: for joining by address, before the peer's key is known.
    Any,
}

/// Why an incoming connection was turned away.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The handshake did not end in time.
    #[error("the caller did not finish the TLS handshake within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
    /// The caller does not speak TLS 1.3 with an ed25519 certificate and HTTP/2.
    #[error("the caller is not an mlxcel host: {0}")]
    NotMlxcel(String),
    /// The caller hung up; a caller that expected another key does.
    #[error("the caller hung up during the TLS handshake: {0}")]
    HungUp(io::Error),
}

/// How a host answers connections: TLS 1.3, HTTP/2, a client certificate required.
#[must_use]
pub fn server_config(identity: &Identity) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the ring provider has TLS 1.3 cipher suites")
        .with_client_cert_verifier(Arc::new(KeyVerifier::new(Expect::Any)))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the proof of the caller's key.
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// How a host opens connections: TLS 1.3, HTTP/2, its own certificate, the peer's key checked
/// against `expected`.
#[must_use]
pub fn client_config(identity: &Identity, expected: Expect) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the ring provider has TLS 1.3 cipher suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(KeyVerifier::new(expected)))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// The key the other end of a finished handshake holds. `None` before the end of the handshake.
///
/// Takes a `rustls::ServerConnection` or `ClientConnection` by reference.
#[must_use]
pub fn peer_fingerprint(connection: &CommonState) -> Option<Fingerprint> {
    let certificate = connection.peer_certificates()?.first()?;
    verify::key_of(certificate).ok()
}

/// The key that a certificate is of, for handshakes that are not a rustls connection's, such as QUIC's. `None` when it is
/// not an ed25519 key.
#[must_use]
pub fn certificate_fingerprint(certificate: &CertificateDer<'_>) -> Option<Fingerprint> {
    verify::key_of(certificate).ok()
}

/// Answers a TCP connection: the stream and the caller's key, within [`CONNECT_TIMEOUT`].
///
/// # Errors
/// The caller is slow, hung up or is not an mlxcel host.
pub async fn accept(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<(ServerStream, Fingerprint), AcceptError> {
    // Small messages must not wait for the acknowledgement of the last one; a socket that
    // cannot be told works, only slower.
    let _ = stream.set_nodelay(true);
    let stream = timeout(CONNECT_TIMEOUT, TlsAcceptor::from(config).accept(stream))
        .await
        .map_err(|_| AcceptError::TimedOut)?
        .map_err(|failed| match verify::tls_error(&failed) {
            Some(rustls::Error::AlertReceived(_)) | None => AcceptError::HungUp(failed),
            Some(error) => AcceptError::NotMlxcel(error.to_string()),
        })?;
    let connection = stream.get_ref().1;
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(AcceptError::NotMlxcel("it does not ask for HTTP/2".into()));
    }
    let peer = peer_fingerprint(connection)
        .ok_or_else(|| AcceptError::NotMlxcel("it showed no certificate".into()))?;
    Ok((stream, peer))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

const ALPN: &[u8] = b"h2";

#[cfg(test)]
mod tests;
