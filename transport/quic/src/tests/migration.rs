//! The address of an end changes, and everything goes on.

use mlxcel_transport::PeerState;

use super::*;

#[test]
fn a_change_of_address_in_the_middle_of_traffic_loses_nothing() {
    let pair = Pair::connected();
    let (one, other) = (pair.one.domain().id(), pair.other.domain().id());
    let before = pair.one.addresses();
    let len = (3 << 20) + 5;
    let (there, back) = (region(&pair.other, len, Access::WRITE), region(&pair.one, len, Access::WRITE));
    let tag = Tag::new(1);
    let arrived = pair.other.domain().expect(tag, &[one]).expect("the tag is free");
    let answered = pair.one.domain().expect(tag, &[other]).expect("the tag is free");
    for round in 1..=12_u8 {
        let write = |from: &Quic, to: &Region| {
            let source = region(from, len, Access::LOCAL);
            source.write_at(0, &pattern(len, round));
            let batch = Batch::single((&source, 0), (&to.key(), 0), len as u64).expect("it fits");
            from.write(&batch, tag, soon())
        };
        let ops = [write(&pair.one, &there), write(&pair.other, &back)];
        if round % 4 == 0 {
            std::thread::sleep(Duration::from_millis(1));
            pair.one.rebind((elsewhere(round), 0).into()).expect("there is a free port");
        }
        for op in ops {
            assert_eq!(block_on(op), Ok(()), "round {round}");
        }
        eventually("the move", || seen_from(&pair) == pair.one.addresses()[0].socket);
        assert_eq!((arrived.count(), answered.count()), (round.into(), round.into()));
        assert!(contents(&there) == pattern(len, round), "round {round} there");
        assert!(contents(&back) == pattern(len, round), "round {round} back");
    }
    assert_ne!(pair.one.addresses(), before);
    assert_eq!(pair.one.domain().peer_state(other), PeerState::Connected(Kind::Quic));
    assert_eq!(arrived.lost(), None, "the link is the same all the time");
    assert_eq!(answered.lost(), None);
}

/// Where the other end sends what is for the first.
fn seen_from(pair: &Pair) -> std::net::SocketAddr {
    pair.other.shared.books().peers[&pair.one.domain().id()].connection.remote_address()
}

/// Linux has all of 127.0.0.0/8, other systems one address of it.
fn elsewhere(round: u8) -> Ipv4Addr {
    if cfg!(target_os = "linux") { Ipv4Addr::new(127, 0, 0, round) } else { Ipv4Addr::LOCALHOST }
}

#[test]
fn an_end_that_moved_is_found_at_its_new_address() {
    let trust = Trust::default();
    let (one, other) = (end(&trust), end(&trust));
    other.rebind((Ipv4Addr::LOCALHOST, 0).into()).expect("there is a free port");
    assert_eq!(connect(&one, &other), Ok(()));
}

#[test]
fn an_address_that_is_not_this_hosts_is_refused_and_nothing_changes() {
    let pair = Pair::connected();
    let moved = pair.one.rebind((Ipv4Addr::new(192, 0, 2, 1), 0).into());
    assert!(matches!(moved, Err(QuicError::Listen { .. })), "{moved:?}");
    let sent = pair.one.send(pair.other.domain().id(), Channel(0), Bytes::from_static(b"here"), soon());
    assert_eq!(block_on(sent), Ok(()));
}
