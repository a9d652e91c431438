//! What goes wrong ends in a typed error, soon.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use mlxcel_transport::{PeerLoss, PeerState};

use super::*;

fn hello(from: &Rdma, to: PeerId) -> Result<(), OpError> {
    block_on(from.send(to, Channel(0), Bytes::from_static(b"hello"), soon()))
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn only_peers_with_a_trusted_key_get_a_queue_pair() {
    let trust = Trust::default();
    let (one, other) = (protected(&trust), protected(&trust));
    let stranger = protected(&Trust::default());
    assert_eq!(connect(&one, &other), Ok(()));
    assert_eq!(hello(&one, other.domain().id()), Ok(()));
    for (from, to) in [(&one, &stranger), (&stranger, &one)] {
        let refused = connect(from, to);
        assert!(matches!(refused, Err(ConnectError::Untrusted { .. })), "{refused:?}");
    }
    let unprotected = connect(&plain(), &one);
    assert!(unprotected.is_err(), "{unprotected:?}");
    assert_eq!(one.domain().peers(), [other.domain().id()]);
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn another_process_at_the_address_is_told_apart() {
    let (one, other) = (plain(), plain());
    let refused = block_on(one.connect(PeerId::random(), &other.addresses(), soon()));
    assert!(matches!(refused, Err(ConnectError::AnotherPeer { .. })), "{refused:?}");
    let nowhere = block_on(one.connect(PeerId::random(), &[], soon()));
    assert_eq!(nowhere, Err(ConnectError::NoAddress(Kind::Rdma)));
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn an_address_that_answers_nothing_is_given_up_in_time() {
    let one = plain();
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = Address { kind: Kind::Rdma, socket: mute.local_addr().expect("bound") };
    let (begun, patience) = (Instant::now(), Duration::from_millis(300));
    let refused = block_on(one.connect(PeerId::random(), &[address], begun + patience));
    assert_eq!(refused, Err(ConnectError::Timeout));
    assert!(begun.elapsed() < patience + Duration::from_secs(1));
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn garbage_on_the_port_disturbs_nobody() {
    let pair = Pair::connected();
    for garbage in [&[0x55; 4096][..], b"mlxt", &[0; 200]] {
        let mut stranger = TcpStream::connect(pair.other.addresses()[0].socket).expect("it listens");
        stranger.write_all(garbage).expect("sent");
        stranger.shutdown(std::net::Shutdown::Write).expect("it is open");
        // Closed, with or without a word.
        let _ = stranger.read_to_end(&mut Vec::new());
    }
    assert_eq!(hello(&pair.one, pair.other.domain().id()), Ok(()));
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_peer_with_nothing_behind_its_queue_pair_is_lost() {
    use mlxcel_transport::core::hello::{ANSWER_BYTES, Hello};

    let end = plain();
    let from = PeerId::random();
    let hello = Hello { from, to: end.domain().id(), incarnation: 1, known: None, rail: 0, rails: 1 };
    let nowhere = wire::QueuePairAddress {
        number: 0xABCDE,
        packet: 1,
        gid: end.shared.adapter.port.gid.bytes,
        lid: 0,
        mtu: 3,
        reads: 1,
        buffers: 64,
        buffer_bytes: 4096,
    };
    let mut stranger = TcpStream::connect(end.addresses()[0].socket).expect("it listens");
    stranger.write_all(&[&hello.to_bytes()[..], &nowhere.to_bytes()].concat()).expect("sent");
    stranger.read_exact(&mut [0; ANSWER_BYTES + wire::ADDRESS_BYTES]).expect("it is welcome");
    stranger.write_all(&[1]).expect("sent");
    block_on(end.domain().connected(from, soon())).expect("it counts as connected");
    let begun = Instant::now();
    let sent = block_on(end.send(from, Channel(0), Bytes::from_static(b"hello"), soon()));
    assert_eq!(sent, Err(OpError::PeerLost));
    assert!(begun.elapsed() < Duration::from_millis(1300), "{:?}", begun.elapsed());
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
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
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_transport_that_is_dropped_says_good_bye() {
    let Pair { one, other } = Pair::connected();
    let gone = one.domain().id();
    drop(one);
    eventually("the loss", || matches!(other.domain().peer_state(gone), PeerState::Lost(_)));
    assert_eq!(other.domain().peer_state(gone), PeerState::Lost(PeerLoss::Closed));
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
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
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn both_may_connect_at_once() {
    for _ in 0..10 {
        let (one, other) = (plain(), plain());
        let there = one.connect(other.domain().id(), &other.addresses(), soon());
        let back = other.connect(one.domain().id(), &one.addresses(), soon());
        assert_eq!(block_on(futures::future::join(there, back)), (Ok(()), Ok(())));
        assert_eq!(hello(&one, other.domain().id()), Ok(()));
        assert_eq!(hello(&other, one.domain().id()), Ok(()));
    }
}
