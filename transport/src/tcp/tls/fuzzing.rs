//! For the fuzzer: a session that hears records from a peer that knows its key.

use std::cell::RefCell;

use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::{DataPlane, Trust};
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{AeadKey, Iv};

use super::record::{Content, Protection};
use super::{Handshake, Session, TlsError};

thread_local! {
    // A handshake takes longer than anything that follows.
    static SESSION: RefCell<Session> = RefCell::new(session());
}

/// Feeds a session with what `input` describes: bytes as they are, or records that open.
pub fn records(mut input: &[u8]) {
    SESSION.with_borrow_mut(|session| {
        session.begin_anew(protection());
        let mut peer = protection();
        while let [kind, len, rest @ ..] = input {
            let (own, others) = rest.split_at(usize::from(*len).min(rest.len()));
            input = others;
            if feed(session, &wire(&mut peer, *kind, own)).is_err() {
                return;
            }
        }
    });
}

fn wire(peer: &mut Protection, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let content = match kind % 4 {
        1 => Content::Data,
        2 => Content::Alert,
        3 => Content::Handshake,
        _ => return bytes.to_vec(),
    };
    let mut record = Vec::new();
    peer.seal(&mut record, content, bytes.len(), |to| to.copy_from_slice(bytes)).expect("a few records");
    record
}

fn feed(session: &mut Session, mut bytes: &[u8]) -> Result<(), TlsError> {
    while !bytes.is_empty() {
        let space = session.space();
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        session.filled(count);
        bytes = &bytes[count..];
        loop {
            let count = session.plain()?.len();
            if count == 0 {
                break;
            }
            session.take(count);
        }
    }
    Ok(())
}

fn protection() -> Protection {
    let secrets = ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([7; 32]), iv: Iv::from([9; 12]) };
    Protection::new((0, secrets)).expect("the key is as long as it has to be")
}

fn session() -> Session {
    let identity = Identity::generate().expect("generated");
    let plane = DataPlane::new(&identity, &Trust::of([identity.fingerprint()]), b"fuzz");
    let mut client = Handshake::client(&plane).expect("configured");
    let mut server = Handshake::server(&plane).expect("configured");
    for _ in 0..4 {
        client.step().expect("the client agrees");
        server.received(&std::mem::take(&mut client.outgoing));
        server.step().expect("the server agrees");
        client.received(&std::mem::take(&mut server.outgoing));
    }
    server.finish().expect("the handshake is done").0
}
