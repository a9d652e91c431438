//! What goes wrong ends in a typed error, soon.

use std::net::UdpSocket;

use mlxcel_transport::{PeerLoss, PeerState};

use super::*;

fn hello(from: &Quic, to: PeerId) -> Result<(), OpError> {
    block_on(from.send(to, Channel(0), Bytes::from_static(b"hello"), soon()))
}

#[test]
fn a_peer_whose_key_is_not_trusted_is_refused_with_the_key_named() {
    let (trusting, identity) = (end(&Trust::default()), Identity::generate().expect("generated"));
    let key = identity.fingerprint();
    let stranger = end_of(identity, &Trust::default());
    let refused = connect(&trusting, &stranger);
    let Err(ConnectError::Untrusted { detail, .. }) = &refused else { panic!("{refused:?}") };
    assert!(detail.contains(&format!("key {key} is not trusted")), "{detail}");
    assert_eq!((trusting.domain().peers(), stranger.domain().peers()), (vec![], vec![]));
}

#[test]
fn a_caller_that_is_not_trusted_is_told_that_it_was_refused() {
    let (identity, caller) =
        (Identity::generate().expect("generated"), Identity::generate().expect("generated"));
    let key = caller.fingerprint();
    let called = end_of(identity.clone(), &Trust::default());
    let caller = end_of(caller, &Trust::of([identity.fingerprint()]));
    let refused = connect(&caller, &called);
    let Err(ConnectError::Untrusted { detail, .. }) = &refused else { panic!("{refused:?}") };
    assert!(detail.contains("it refused this host"), "{detail}");
    assert!(detail.contains(&format!("key {key} is not trusted")), "{detail}");
    assert_eq!(called.domain().peers(), []);
}

#[test]
fn trust_may_be_given_and_taken_while_the_transport_runs() {
    let identity = Identity::generate().expect("generated");
    let (trust, key) = (Trust::default(), identity.fingerprint());
    let one = end(&trust);
    let other = end_of(identity, &trust);
    assert!(matches!(connect(&one, &other), Err(ConnectError::Untrusted { .. })));
    trust.add(key);
    assert_eq!(connect(&one, &other), Ok(()));
    trust.remove(key);
    assert_eq!(hello(&one, other.domain().id()), Ok(()), "connections that exist stay");
    one.disconnect(other.domain().id());
    assert!(matches!(connect(&one, &other), Err(ConnectError::Untrusted { .. })));
}

#[test]
fn another_process_at_the_address_is_told_apart() {
    let trust = Trust::default();
    let (one, other) = (end(&trust), end(&trust));
    let refused = block_on(one.connect(PeerId::random(), &other.addresses(), soon()));
    assert!(matches!(refused, Err(ConnectError::AnotherPeer { .. })), "{refused:?}");
    let nowhere = block_on(one.connect(PeerId::random(), &[], soon()));
    assert_eq!(nowhere, Err(ConnectError::NoAddress(Kind::Quic)));
}

#[test]
fn an_address_that_answers_nothing_is_given_up_in_time() {
    let one = end(&Trust::default());
    let mute = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = Address { kind: Kind::Quic, socket: mute.local_addr().expect("bound") };
    let (began, patience) = (Instant::now(), Duration::from_millis(300));
    let refused = block_on(one.connect(PeerId::random(), &[address], began + patience));
    assert_eq!(refused, Err(ConnectError::Timeout));
    assert!(began.elapsed() < patience + Duration::from_secs(1));
}

#[test]
fn an_address_that_answers_nothing_keeps_nobody_from_the_next() {
    let trust = Trust::default();
    let (one, other) = (end(&trust), end(&trust));
    let mute = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let mute = Address { kind: Kind::Quic, socket: mute.local_addr().expect("bound") };
    let addresses = [vec![mute], other.addresses()].concat();
    assert_eq!(block_on(one.connect(other.domain().id(), &addresses, soon())), Ok(()));
}

#[test]
fn garbage_on_the_port_disturbs_nobody() {
    let pair = Pair::connected();
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    for len in [1, 20, 1200, 6500, 60_000] {
        let garbage = pattern(len, 0xc3);
        stranger.send_to(&garbage, pair.other.addresses()[0].socket).expect("sent");
    }
    assert_eq!(hello(&pair.one, pair.other.domain().id()), Ok(()));
}

#[test]
fn good_bye_ends_what_is_in_flight_on_both_sides() {
    let pair = Pair::connected();
    let (one, other) = (pair.one.domain().id(), pair.other.domain().id());
    let waiting = pair.other.domain().readable(one, Channel(0), soon());
    let began = Instant::now();
    pair.one.disconnect(other);
    assert_eq!(block_on(waiting), Err(OpError::PeerLost));
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(pair.other.domain().peer_state(one), PeerState::Lost(PeerLoss::Closed));
    assert_eq!(hello(&pair.one, other), Err(OpError::PeerLost));
}

#[test]
fn a_transport_that_is_dropped_says_good_bye() {
    let Pair { one, other } = Pair::connected();
    let gone = one.domain().id();
    drop(one);
    eventually("the loss", || matches!(other.domain().peer_state(gone), PeerState::Lost(_)));
    assert_eq!(other.domain().peer_state(gone), PeerState::Lost(PeerLoss::Closed));
}

#[test]
fn peers_that_lost_each_other_connect_again() {
    let pair = Pair::connected();
    for round in 0..5 {
        let (from, to) = if round % 2 == 0 { (&pair.one, &pair.other) } else { (&pair.other, &pair.one) };
        from.disconnect(to.domain().id());
        connect(from, to).expect("it is still there");
        assert_eq!(hello(from, to.domain().id()), Ok(()), "round {round}");
        let arrived = block_on(to.domain().receive(from.domain().id(), Channel(0), soon()));
        assert_eq!(arrived.expect("it came"), "hello", "round {round}");
    }
    assert_eq!(pair.other.domain().peers(), [pair.one.domain().id()]);
}

#[test]
fn both_may_connect_at_once() {
    for _ in 0..10 {
        let trust = Trust::default();
        let (one, other) = (end(&trust), end(&trust));
        let there = one.connect(other.domain().id(), &other.addresses(), soon());
        let back = other.connect(one.domain().id(), &one.addresses(), soon());
        assert_eq!(block_on(futures::future::join(there, back)), (Ok(()), Ok(())));
        assert_eq!(hello(&one, other.domain().id()), Ok(()));
        assert_eq!(hello(&other, one.domain().id()), Ok(()));
    }
}
