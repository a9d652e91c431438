use std::io::IoSlice;

use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::{DataPlane, Trust};
use proptest::prelude::*;

use super::*;

fn plane(identity: &Identity, trust: &Trust) -> DataPlane {
    DataPlane::new(identity, trust, b"test")
}

fn identity() -> Identity {
    Identity::generate().expect("generated")
}

/// Carries bytes between two handshakes until both have ended. One that is done only collects what still comes.
fn shake(
    client: &mut Handshake,
    server: &mut Handshake,
) -> (Result<Progress, TlsError>, Result<Progress, TlsError>) {
    let (mut client_is, mut server_is) = (client.step(), server.step());
    for _ in 0..4 {
        server.received(&std::mem::take(&mut client.outgoing));
        server_is = server_is.and_then(|is| if is == Progress::Done { Ok(is) } else { server.step() });
        client.received(&std::mem::take(&mut server.outgoing));
        client_is = client_is.and_then(|is| if is == Progress::Done { Ok(is) } else { client.step() });
    }
    (client_is, server_is)
}

fn sessions() -> (Session, Session) {
    let (one, other) = (identity(), identity());
    let trust = Trust::of([one.fingerprint(), other.fingerprint()]);
    let mut client = Handshake::client(&plane(&one, &trust)).expect("configured");
    let mut server = Handshake::server(&plane(&other, &trust)).expect("configured");
    let (client_is, server_is) = shake(&mut client, &mut server);
    assert_eq!(client_is.expect("the client agrees"), Progress::Done);
    assert_eq!(server_is.expect("the server agrees"), Progress::Done);
    let (client, seen) = client.finish().expect("the client is done");
    assert_eq!(seen, other.fingerprint());
    let (server, seen) = server.finish().expect("the server is done");
    assert_eq!(seen, one.fingerprint());
    (client, server)
}

/// Moves up to `most` bytes a time from one session's socket side to the other's, and takes the plaintext.
fn carry(from: &mut Session, to: &mut Session, most: usize) -> Result<Vec<u8>, TlsError> {
    let mut plain = Vec::new();
    while !from.sealed().is_empty() {
        let space = to.space();
        let count = from.sealed().len().min(space.len()).min(most);
        space[..count].copy_from_slice(&from.sealed()[..count]);
        from.drained(count);
        to.filled(count);
        loop {
            let opened = to.plain()?;
            if opened.is_empty() {
                break;
            }
            // Not all at once: what is left must stay.
            let count = opened.len().min(1000);
            plain.extend(&opened[..count]);
            to.take(count);
        }
    }
    Ok(plain)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[test]
fn bytes_arrive_as_they_were_sealed_however_they_are_cut() {
    let (mut one, mut other) = sessions();
    let bytes = pattern(1_000_000);
    for most in [77, 5000, usize::MAX] {
        let (mut at, mut arrived) = (0, Vec::new());
        while at < bytes.len() {
            let (head, rest) = bytes[at..].split_at(100.min(bytes.len() - at));
            at += one.seal(&[IoSlice::new(head), IoSlice::new(rest)]).expect("sealed");
            arrived.extend(carry(&mut one, &mut other, most).expect("opened"));
        }
        assert!(arrived == bytes, "the bytes are those sent");
    }
}

#[test]
fn worn_keys_are_renewed_on_the_way() {
    let (mut one, mut other) = sessions();
    for round in 0..3 {
        let bytes = pattern(50_000 + round);
        one.wear_out();
        assert_eq!(one.seal(&[IoSlice::new(&bytes)]).expect("sealed"), bytes.len());
        assert!(carry(&mut one, &mut other, usize::MAX).expect("opened") == bytes);
        assert_eq!(other.seal(&[IoSlice::new(&bytes)]).expect("sealed"), bytes.len());
        assert!(carry(&mut other, &mut one, usize::MAX).expect("opened") == bytes);
    }
}

#[test]
fn a_changed_byte_ends_the_connection() {
    let (mut one, mut other) = sessions();
    one.seal(&[IoSlice::new(b"hello")]).expect("sealed");
    let mut sealed = one.sealed().to_vec();
    sealed[7] ^= 1;
    other.space()[..sealed.len()].copy_from_slice(&sealed);
    other.filled(sealed.len());
    assert!(matches!(other.plain(), Err(TlsError::Forged)));
}

#[test]
fn a_record_that_is_too_long_is_refused_before_it_arrives() {
    let (_, mut other) = sessions();
    other.space()[..5].copy_from_slice(&[23, 3, 3, 0xff, 0xff]);
    other.filled(5);
    assert!(matches!(other.plain(), Err(TlsError::Protocol(_))));
}

#[test]
fn who_is_not_trusted_is_told_so() {
    let (one, other) = (identity(), identity());
    let mut client = Handshake::client(&plane(&one, &Trust::of([other.fingerprint()]))).expect("configured");
    let mut server = Handshake::server(&plane(&other, &Trust::default())).expect("configured");
    let (_, refused) = shake(&mut client, &mut server);
    assert!(matches!(refused, Err(TlsError::Rustls(rustls::Error::InvalidCertificate(_)))));
    // The client believes to be done before the server has judged it; its session then reads the alert.
    let (mut client, _) = client.finish().expect("the client has seen a key it trusts");
    assert!(matches!(client.plain(), Err(TlsError::Alert(_))));
}

/// What a record's header may be, and anything else.
fn records() -> impl Strategy<Value = Vec<u8>> {
    let record = (20_u8..25, prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(content, body)| {
        let [high, low] = (body.len() as u16).to_be_bytes();
        [vec![content, 3, 3, high, low], body].concat()
    });
    prop_oneof![
        prop::collection::vec(record, 1..5).prop_map(|records| records.concat()),
        prop::collection::vec(any::<u8>(), 1..500)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn bytes_of_nobody_are_refused_or_waited_for(bytes in records()) {
        let (_, mut session) = sessions();
        session.space()[..bytes.len()].copy_from_slice(&bytes);
        session.filled(bytes.len());
        if let Ok(plain) = session.plain() {
            prop_assert!(plain.is_empty());
        }
        let identity = identity();
        let mut handshake =
            Handshake::server(&plane(&identity, &Trust::default())).expect("configured");
        handshake.received(&bytes);
        prop_assert_ne!(handshake.step().ok(), Some(Progress::Done));
    }

    #[test]
    fn a_damaged_handshake_is_refused_or_waited_for(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1..=u8::MAX), 1..4),
        cut in any::<prop::sample::Index>(),
        of_server in any::<bool>(),
    ) {
        let (one, other) = (identity(), identity());
        let trust = Trust::of([one.fingerprint(), other.fingerprint()]);
        let mut client = Handshake::client(&plane(&one, &trust)).expect("configured");
        let mut server = Handshake::server(&plane(&other, &trust)).expect("configured");
        client.step().expect("it says hello");
        let mut flight = std::mem::take(&mut client.outgoing);
        if of_server {
            server.received(&flight);
            server.step().expect("it answers");
            flight = std::mem::take(&mut server.outgoing);
        }
        for (at, change) in damage {
            let at = at.index(flight.len());
            flight[at] ^= change;
        }
        let judge = if of_server { &mut client } else { &mut server };
        let (head, tail) = flight.split_at(cut.index(flight.len()));
        for part in [head, tail] {
            judge.received(part);
            // Changes that cancel each other, or that mean nothing, are found out later.
            if judge.step().is_err() {
                break;
            }
        }
    }
}
