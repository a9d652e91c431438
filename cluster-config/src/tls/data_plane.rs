//! TLS 1.3 between the data planes of hosts that trust a set of keys.
//!
//! The set is whoever uses the data plane's to change at any time; it is asked anew in every handshake. Knows neither
//! TCP nor QUIC: each names its own protocol, so that one is never taken for the other.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::provider;
use super::verify::KeyVerifier;
use crate::identity::SERVER_NAME;
use crate::{Fingerprint, Identity};

/// The keys that are trusted. Clones share one set.
#[derive(Debug, Clone, Default)]
pub struct Trust(Arc<RwLock<HashSet<Fingerprint>>>);

impl Trust {
    /// Trusts these keys.
    #[must_use]
    pub fn of(keys: impl IntoIterator<Item = Fingerprint>) -> Self {
        Self(Arc::new(RwLock::new(keys.into_iter().collect())))
    }

    /// Trusts a key from now on.
    pub fn add(&self, key: Fingerprint) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// Trusts a key no longer. Connections that exist stay.
    pub fn remove(&self, key: Fingerprint) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// Whether a key is trusted now.
    #[must_use]
    pub fn allows(&self, key: Fingerprint) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&key)
    }
}

/// How a host's data plane opens and answers connections: both ends show a trusted key.
#[derive(Debug, Clone)]
pub struct DataPlane {
    /// For connections this host opens.
    pub client: Arc<ClientConfig>,
    /// For connections peers open.
    pub server: Arc<ServerConfig>,
}

impl DataPlane {
    /// Configurations for a protocol that is named `alpn` in handshakes. They allow the secrets of a connection to be
    /// taken over by a record layer of the transport's own.
    #[must_use]
    pub fn new(identity: &Identity, trust: &Trust, alpn: &[u8]) -> Self {
        let verifier = || Arc::new(KeyVerifier::trusting(trust.clone()));
        let certificate = || Arc::new(SingleCertAndKey::from(identity.certified()));
        let mut server = ServerConfig::builder_with_provider(fast_first())
            .with_protocol_versions(&[&TLS13])
            .expect("the ring provider has TLS 1.3 cipher suites")
            .with_client_cert_verifier(verifier())
            .with_cert_resolver(certificate());
        server.alpn_protocols = vec![alpn.to_vec()];
        // A resumed session would skip the proof of the caller's key.
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = true;
        let mut client = ClientConfig::builder_with_provider(fast_first())
            .with_protocol_versions(&[&TLS13])
            .expect("the ring provider has TLS 1.3 cipher suites")
            .dangerous()
            .with_custom_certificate_verifier(verifier())
            .with_client_cert_resolver(certificate());
        client.alpn_protocols = vec![alpn.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_secret_extraction = true;
        Self { client: Arc::new(client), server: Arc::new(server) }
    }
}

/// The name that every certificate bears: it identifies nobody.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("a constant that is a DNS name")
}

/// Bulk data: AES with the shorter key is a third faster, and as safe for as long as anyone can tell.
fn fast_first() -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(&provider());
    provider.cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(provider)
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConnection, Error, ServerConnection};

    use super::*;

    /// What both ends said when their handshake was over, and the key each saw.
    fn handshake(client: &DataPlane, server: &DataPlane) -> (Result<(), Error>, Result<(), Error>) {
        let mut client =
            ClientConnection::new(Arc::clone(&client.client), server_name()).expect("configured");
        let mut server = ServerConnection::new(Arc::clone(&server.server)).expect("configured");
        let (mut client_said, mut server_said) = (Ok(()), Ok(()));
        for _ in 0..4 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).expect("a vector takes all");
            }
            server.read_tls(&mut wire.as_slice()).expect("a slice gives all");
            server_said = server_said.and(server.process_new_packets().map(|_| ()));
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).expect("a vector takes all");
            }
            client.read_tls(&mut wire.as_slice()).expect("a slice gives all");
            client_said = client_said.and(client.process_new_packets().map(|_| ()));
        }
        (client_said, server_said)
    }

    fn identity() -> Identity {
        Identity::generate().expect("generated")
    }

    #[test]
    fn hosts_that_trust_each_other_agree() {
        let (one, other) = (identity(), identity());
        let trust = Trust::of([one.fingerprint(), other.fingerprint()]);
        let plane = |identity| DataPlane::new(identity, &trust, b"test");
        assert_eq!(handshake(&plane(&one), &plane(&other)), (Ok(()), Ok(())));
    }

    #[test]
    fn a_key_is_trusted_from_its_addition_to_its_removal() {
        let (one, other) = (identity(), identity());
        let trust = Trust::of([other.fingerprint()]);
        let plane = |identity| DataPlane::new(identity, &trust, b"test");
        let (one_plane, other_plane) = (plane(&one), plane(&other));
        assert!(matches!(handshake(&one_plane, &other_plane).1, Err(Error::InvalidCertificate(_))));
        trust.add(one.fingerprint());
        assert_eq!(handshake(&one_plane, &other_plane), (Ok(()), Ok(())));
        trust.remove(other.fingerprint());
        assert!(matches!(handshake(&one_plane, &other_plane).0, Err(Error::InvalidCertificate(_))));
    }

    #[test]
    fn protocols_are_not_taken_for_each_other() {
        let host = identity();
        let trust = Trust::of([host.fingerprint()]);
        let [one, other] = [b"one", b"two"].map(|alpn| DataPlane::new(&host, &trust, alpn));
        assert_eq!(handshake(&one, &other).1, Err(Error::NoApplicationProtocol));
    }
}
