//! What goes wrong ends in a typed error, soon.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::PeerLoss;
use crate::PeerState;

#[test]
fn nobody_at_the_address_is_unreachable() {
    let one = POLL.end(&Trust::default());
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let address = Address { kind: Kind::Tcp, socket: free };
    let refused = block_on(one.connect(PeerId::random(), &[address], soon()));
    assert!(matches!(refused, Err(ConnectError::Unreachable { .. })), "{refused:?}");
    let nowhere = block_on(one.connect(PeerId::random(), &[], soon()));
    assert_eq!(nowhere, Err(ConnectError::NoAddress(Kind::Tcp)));
}

#[test]
fn another_process_at_the_address_is_told_apart() {
    for way in WAYS {
        let trust = Trust::default();
        let (one, other) = (way.end(&trust), way.end(&trust));
        let refused = block_on(one.connect(PeerId::random(), &other.addresses(), soon()));
        assert!(matches!(refused, Err(ConnectError::AnotherPeer { .. })), "{way:?}: {refused:?}");
    }
}

#[test]
fn a_peer_without_a_trusted_key_is_not_connected_to_in_either_direction() {
    let way = Way { encrypted: true, ..POLL };
    let (trusting, trusted) = (way.end(&Trust::default()), Trust::default());
    let stranger = way.end(&trusted);
    let refused = connect(&trusting, &stranger);
    assert!(matches!(refused, Err(ConnectError::Untrusted { .. })), "{refused:?}");
    let refused = connect(&stranger, &trusting);
    assert!(matches!(refused, Err(ConnectError::Untrusted { .. })), "{refused:?}");
    assert_eq!(trusting.domain().peers(), []);
}

#[test]
fn trust_may_be_given_and_taken_while_the_transport_runs() {
    for way in WAYS.iter().filter(|way| way.encrypted) {
        let identity = Identity::generate().expect("generated");
        let (trust, key) = (Trust::default(), identity.fingerprint());
        let one = way.end(&trust);
        let security = Security::Tls { identity, trust: trust.clone() };
        let config = TcpConfig { driver: way.driver, ..TcpConfig::new(security) };
        let other = Tcp::new(&Domain::new(), config.bound_to(Ipv4Addr::LOCALHOST.into())).expect("it starts");
        assert!(matches!(connect(&one, &other), Err(ConnectError::Untrusted { .. })), "{way:?}");
        trust.add(key);
        assert_eq!(connect(&one, &other), Ok(()), "{way:?}");
        trust.remove(key);
        let sent = one.send(other.domain().id(), Channel(0), Bytes::from_static(b"known"), soon());
        assert_eq!(block_on(sent), Ok(()), "{way:?}: connections that exist stay");
        one.disconnect(other.domain().id());
        assert!(matches!(connect(&one, &other), Err(ConnectError::Untrusted { .. })), "{way:?}");
    }
}

#[test]
fn a_plain_peer_and_a_protected_one_do_not_connect() {
    let trust = Trust::default();
    let (plain, protected) = (POLL.end(&trust), Way { encrypted: true, ..POLL }.end(&trust));
    for (from, to) in [(&plain, &protected), (&protected, &plain)] {
        let deadline = Instant::now() + Duration::from_millis(500);
        let refused = block_on(from.connect(to.domain().id(), &to.addresses(), deadline));
        assert!(refused.is_err(), "{refused:?}");
    }
}

#[test]
fn an_address_that_answers_nothing_is_given_up_in_time() {
    let one = POLL.end(&Trust::default());
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = Address { kind: Kind::Tcp, socket: mute.local_addr().expect("bound") };
    let deadline = Instant::now() + Duration::from_millis(300);
    let refused = block_on(one.connect(PeerId::random(), &[address], deadline));
    assert_eq!(refused, Err(ConnectError::Timeout));
}

#[test]
fn garbage_on_the_port_disturbs_nobody() {
    for way in WAYS {
        let pair = way.pair();
        let mut stranger = TcpStream::connect(pair.other.addresses()[0].socket).expect("it listens");
        stranger.write_all(&[0x55; 4096]).expect("sent");
        let mut answer = Vec::new();
        // Closed, with or without an alert.
        let _ = stranger.read_to_end(&mut answer);
        let op =
            pair.one.send(pair.other.domain().id(), Channel(0), Bytes::from_static(b"still here"), soon());
        assert_eq!(block_on(op), Ok(()), "{way:?}");
    }
}

#[test]
fn good_bye_ends_what_is_in_flight_on_both_sides() {
    for way in WAYS {
        let pair = way.pair();
        let (one, other) = (pair.one.domain().id(), pair.other.domain().id());
        let waiting = pair.other.domain().readable(one, Channel(0), soon());
        let began = Instant::now();
        pair.one.disconnect(other);
        assert_eq!(block_on(waiting), Err(OpError::PeerLost), "{way:?}");
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(pair.other.domain().peer_state(one), PeerState::Lost(PeerLoss::Closed), "{way:?}");
        let late = pair.one.send(other, Channel(0), Bytes::new(), soon());
        assert_eq!(block_on(late), Err(OpError::PeerLost));
    }
}

#[test]
fn a_transport_that_is_dropped_says_good_bye() {
    for way in WAYS {
        let Pair { one, other } = way.pair();
        let gone = one.domain().id();
        drop(one);
        eventually("the loss", || matches!(other.domain().peer_state(gone), PeerState::Lost(_)));
        assert_eq!(other.domain().peer_state(gone), PeerState::Lost(PeerLoss::Closed), "{way:?}");
    }
}

#[test]
fn peers_that_lost_each_other_connect_again() {
    for way in WAYS {
        let pair = way.pair();
        let (one, other) = (pair.one.domain().id(), pair.other.domain().id());
        for _ in 0..3 {
            pair.one.disconnect(other);
            connect(&pair.one, &pair.other).expect("it is still there");
            let op = pair.one.send(other, Channel(0), Bytes::from_static(b"again"), soon());
            assert_eq!(block_on(op), Ok(()), "{way:?}");
            assert_eq!(
                block_on(pair.other.domain().receive(one, Channel(0), soon())).expect("it came"),
                "again"
            );
        }
    }
}
