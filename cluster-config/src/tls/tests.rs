use std::net::SocketAddr;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::*;
use crate::{ConnectError, LinkCause};

fn identity() -> Identity {
    Identity::generate().expect("generated")
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("address");
    (listener, address)
}

/// A host that answers one caller and then sends `hello`.
async fn host(identity: &Identity) -> (SocketAddr, JoinSet<Result<Fingerprint, AcceptError>>) {
    let (listener, address) = listener().await;
    let config = server_config(identity);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepted");
        let (mut stream, caller) = accept(stream, config).await?;
        stream.write_all(b"hello").await.expect("written");
        stream.shutdown().await.expect("closed");
        Ok(caller)
    });
    (address, tasks)
}

async fn outcome(mut tasks: JoinSet<Result<Fingerprint, AcceptError>>) -> Result<Fingerprint, AcceptError> {
    tasks.join_next().await.expect("one task").expect("no panic")
}

fn cause(result: Result<(ClientStream, Fingerprint), ConnectError>) -> LinkCause {
    result.expect_err("must not connect").cause
}

#[tokio::test]
async fn both_sides_learn_the_other_key() {
    let (node, router) = (identity(), identity());
    let (address, tasks) = host(&node).await;
    let expected = Expect::Exactly(node.fingerprint());
    let (mut stream, peer) = connect(address, &router, expected).await.expect("connected");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("read");
    assert_eq!(text, "hello");
    assert_eq!(peer, node.fingerprint());
    assert_eq!(outcome(tasks).await.expect("accepted"), router.fingerprint());
}

#[tokio::test]
async fn unexpected_key_is_refused_naming_both() {
    let (node, router, other) = (identity(), identity(), identity());
    let (address, tasks) = host(&node).await;
    let expected = Expect::Exactly(other.fingerprint());
    let refused = cause(connect(address, &router, expected).await);
    assert_eq!(refused, LinkCause::KeyMismatch { expected: other.fingerprint(), seen: node.fingerprint() });
    let text = refused.to_string();
    assert!(text.contains(&other.fingerprint().to_string()), "{text}");
    assert!(text.contains(&node.fingerprint().to_string()), "{text}");
    assert!(matches!(outcome(tasks).await, Err(AcceptError::HungUp(_))));
}

#[tokio::test]
async fn any_key_is_accepted_when_joining_by_address() {
    let (node, router) = (identity(), identity());
    let (address, _tasks) = host(&node).await;
    let (_, peer) = connect(address, &router, Expect::Any).await.expect("connected");
    assert_eq!(peer, node.fingerprint());
}

#[tokio::test]
async fn caller_without_a_certificate_is_turned_away() {
    let (address, tasks) = host(&identity()).await;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(KeyVerifier::new(Expect::Any)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let stream = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("anyone").expect("name");
    // In TLS 1.3 the client learns of the refusal with its first read.
    let _ = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    assert!(matches!(outcome(tasks).await, Err(AcceptError::NotMlxcel(_))));
}

#[tokio::test]
async fn caller_with_someone_elses_certificate_is_turned_away() {
    let (victim, thief) = (identity(), identity());
    let (address, tasks) = host(&identity()).await;
    let certificate = victim.certified().cert.clone();
    let stolen = rustls::sign::CertifiedKey::new(certificate, thief.certified().key.clone());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(KeyVerifier::new(Expect::Any)))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(stolen)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    let stream = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("anyone").expect("name");
    let _ = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    assert!(matches!(outcome(tasks).await, Err(AcceptError::NotMlxcel(_))));
}

#[tokio::test]
async fn server_without_an_ed25519_key_is_not_mlxcel() {
    let (listener, address) = listener().await;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
    let certificate = CertificateParams::new(vec!["web".to_owned()])
        .expect("parameters")
        .self_signed(&key)
        .expect("certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("web server");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepted");
        TlsAcceptor::from(Arc::new(config)).accept(stream).await.is_ok()
    });
    let refused = cause(connect(address, &identity(), Expect::Any).await);
    assert!(matches!(refused, LinkCause::NotMlxcel { .. }), "{refused:?}");
}

#[tokio::test]
async fn server_that_speaks_something_else_is_not_mlxcel() {
    let (listener, address) = listener().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        stream.write_all(b"220 mail.example ESMTP\r\n").await.expect("written");
        let mut sink = Vec::new();
        let _ = stream.read_to_end(&mut sink).await;
    });
    let refused = cause(connect(address, &identity(), Expect::Any).await);
    assert!(matches!(refused, LinkCause::NotMlxcel { .. }), "{refused:?}");
}

#[tokio::test]
async fn server_that_never_answers_is_given_up_within_the_bound() {
    let (listener, address) = listener().await;
    let began = std::time::Instant::now();
    let refused = cause(connect(address, &identity(), Expect::Any).await);
    let took = began.elapsed();
    drop(listener);
    assert!(matches!(refused, LinkCause::NotMlxcel { .. }), "{refused:?}");
    assert!(took < CONNECT_TIMEOUT + Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn closed_port_is_refused_naming_the_address() {
    let (listener, address) = listener().await;
    drop(listener);
    let refused = connect(address, &identity(), Expect::Any).await.expect_err("closed");
    assert_eq!(refused.cause, LinkCause::Refused);
    assert_eq!(refused.address, Some(address));
    assert!(refused.to_string().contains(&address.to_string()));
}

#[tokio::test]
async fn second_address_is_tried_when_the_first_fails() {
    let (node, router) = (identity(), identity());
    let (closed, dead) = listener().await;
    drop(closed);
    let (address, _tasks) = host(&node).await;
    let expected = Expect::Exactly(node.fingerprint());
    let (stream, _) = connect_any(&[dead, address], &router, expected).await.expect("connected");
    assert_eq!(stream.get_ref().0.peer_addr().expect("address"), address);
}

#[tokio::test]
async fn silent_address_does_not_hold_up_the_next() {
    let (node, router) = (identity(), identity());
    let (_silent, hung) = listener().await;
    let (address, _tasks) = host(&node).await;
    let began = std::time::Instant::now();
    connect_any(&[hung, address], &router, Expect::Any).await.expect("connected");
    assert!(began.elapsed() < CONNECT_TIMEOUT / 2);
}

#[tokio::test]
async fn peer_without_addresses_is_named() {
    let refused = cause(connect_any(&[], &identity(), Expect::Any).await);
    assert_eq!(refused, LinkCause::NoAddress);
}

#[tokio::test]
async fn caller_that_hangs_is_turned_away_within_the_bound() {
    let (address, tasks) = host(&identity()).await;
    let _mute = TcpStream::connect(address).await.expect("connected");
    let began = std::time::Instant::now();
    assert!(matches!(outcome(tasks).await, Err(AcceptError::TimedOut)));
    assert!(began.elapsed() < CONNECT_TIMEOUT + Duration::from_secs(1));
}
