//! Checks of a peer's certificate: an ed25519 key, held by the peer, and the expected one.
//!
//! Names, dates and issuers in the certificate mean nothing here.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
};

use super::{Expect, Trust};
use crate::Fingerprint;

/// Another key than the expected one answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyMismatch {
    pub(super) expected: Fingerprint,
    pub(super) seen: Fingerprint,
}

impl fmt::Display for KeyMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected key {}, saw {}", self.expected, self.seen)
    }
}

impl std::error::Error for KeyMismatch {}

/// A key answered that is not among the trusted ones.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyNotTrusted(Fingerprint);

/// As for people: where rustls makes text of its errors, QUIC's only trace of them, causes are shown in this form.
impl fmt::Debug for KeyNotTrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for KeyNotTrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} is not trusted", self.0)
    }
}

impl std::error::Error for KeyNotTrusted {}

/// Which keys a verifier accepts.
#[derive(Debug)]
enum Accepts {
    Expected(Expect),
    Trusted(Trust),
}

/// Accepts self-signed ed25519 certificates of the expected key, or of keys that are trusted at that moment.
#[derive(Debug)]
pub(super) struct KeyVerifier {
    accepts: Accepts,
    algorithms: WebPkiSupportedAlgorithms,
}

impl KeyVerifier {
    pub(super) fn new(expected: Expect) -> Self {
        Self::accepting(Accepts::Expected(expected))
    }

    pub(super) fn trusting(trust: Trust) -> Self {
        Self::accepting(Accepts::Trusted(trust))
    }

    fn accepting(accepts: Accepts) -> Self {
        Self { accepts, algorithms: ring::default_provider().signature_verification_algorithms }
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let seen = key_of(certificate)?;
        let refusal: OtherError = match &self.accepts {
            Accepts::Expected(Expect::Exactly(expected)) if *expected != seen => {
                OtherError(Arc::new(KeyMismatch { expected: *expected, seen }))
            }
            Accepts::Trusted(trust) if !trust.allows(seen) => OtherError(Arc::new(KeyNotTrusted(seen))),
            Accepts::Expected(_) | Accepts::Trusted(_) => return Ok(()),
        };
        Err(CertificateError::Other(refusal).into())
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The fingerprint of an ed25519 certificate's key.
pub(super) fn key_of(certificate: &CertificateDer<'_>) -> Result<Fingerprint, Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let der: &[u8] = key.as_ref();
    if der.len() == ED25519_SPKI_BYTES && der.starts_with(&ED25519_SPKI_PREFIX) {
        Ok(Fingerprint::of_public_key(der))
    } else {
        Err(CertificateError::BadEncoding.into())
    }
}

/// The TLS error inside an I/O error, if that is what it is.
pub(super) fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// The mismatch inside a TLS error, if that is what it is.
pub(super) fn key_mismatch(error: &Error) -> Option<KeyMismatch> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<KeyMismatch>().copied()
        }
        _ => None,
    }
}

/// RFC 8410: a SEQUENCE of the algorithm id-Ed25519 without parameters and a 256-bit string.
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const ED25519_SPKI_BYTES: usize = 44;
