//! Over a network that delays and loses.

use mlxcel_transport::{PeerLoss, PeerState};

use super::relay::{Conditions, Relay};
use super::*;

/// Twenty milliseconds each way, one in fifty lost.
const BAD: Conditions = Conditions { delay: Duration::from_millis(20), lost: 20, largest: usize::MAX };

const WELL: Conditions = Conditions { delay: Duration::ZERO, lost: 0, largest: usize::MAX };

/// A pair whose datagrams all go through the relay.
fn apart(conditions: Conditions) -> (Pair, Relay) {
    let trust = Trust::default();
    let pair = Pair { one: end(&trust), other: end(&trust) };
    let relay = Relay::to(pair.other.addresses()[0].socket, conditions);
    let address = Address { kind: Kind::Quic, socket: relay.address };
    block_on(pair.one.connect(pair.other.domain().id(), &[address], soon())).expect("they connect");
    block_on(pair.other.domain().connected(pair.one.domain().id(), soon())).expect("it knows its peer");
    (pair, relay)
}

#[test]
fn a_peer_that_two_addresses_lead_to_has_one_link() {
    for slow_first in [true, false] {
        let trust = Trust::default();
        let (one, other) = (end(&trust), end(&trust));
        let direct = other.addresses()[0].socket;
        let relay = Relay::to(direct, Conditions { delay: Duration::from_millis(150), ..WELL });
        let mut addresses = [relay.address, direct];
        if !slow_first {
            addresses.reverse();
        }
        let (shared, peer) = (Arc::clone(&one.shared), other.domain().id());
        let reached = one.shared.runtime.spawn(async move { dial::reach(&shared, peer, &addresses).await });
        assert_eq!(block_on(reached).expect("it does not panic"), Ok(()));
        // The slower call ends meanwhile.
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(one.domain().peer_state(peer), PeerState::Connected(Kind::Quic));
        assert_eq!(block_on(one.send(peer, Channel(0), Bytes::from_static(b"here"), soon())), Ok(()));
    }
}

#[test]
fn batches_arrive_whole_over_a_network_that_loses_datagrams() {
    let (pair, relay) = apart(BAD);
    let len = 300_000;
    let target = region(&pair.other, len, Access::WRITE);
    let counter = pair.other.domain().expect(Tag::new(1), &[pair.one.domain().id()]).expect("free");
    for round in 1..=10_u8 {
        let source = region(&pair.one, len, Access::LOCAL);
        source.write_at(0, &pattern(len, round));
        let batch = Batch::single((&source, 0), (&target.key(), 0), len as u64).expect("it fits");
        let op = pair.one.write(&batch, Tag::new(1), soon());
        assert_eq!(block_on(counter.reached(round.into(), soon())), Ok(()), "round {round}");
        assert!(contents(&target) == pattern(len, round), "round {round} is whole when it is counted");
        assert_eq!(block_on(op), Ok(()), "round {round}");
    }
    assert!(relay.lost() > 0, "the network lost something");
}

#[test]
fn messages_stay_in_order_over_a_network_that_loses_datagrams() {
    let (pair, relay) = apart(BAD);
    let other = pair.other.domain().id();
    let message = |number: usize| Bytes::from(pattern(number * 97 % 3000, number as u8));
    let sent: Vec<_> =
        (0..200).map(|number| pair.one.send(other, Channel(2), message(number), soon())).collect();
    for number in 0..200 {
        let received = block_on(pair.other.domain().receive(pair.one.domain().id(), Channel(2), soon()));
        assert_eq!(received, Ok(message(number)), "message {number}");
    }
    assert!(sent.into_iter().all(|op| block_on(op) == Ok(())));
    assert!(relay.lost() > 0, "the network lost something");
}

#[test]
fn a_message_does_not_wait_behind_what_is_lost_of_large_batches() {
    let (pair, _relay) = apart(BAD);
    let (one, other) = (pair.one.domain().id(), pair.other.domain().id());
    let len = 4 << 20;
    let (source, target) = (region(&pair.one, len, Access::LOCAL), region(&pair.other, len, Access::WRITE));
    let counter = pair.other.domain().expect(Tag::new(1), &[one]).expect("the tag is free");
    let batch = Batch::single((&source, 0), (&target.key(), 0), len as u64).expect("it fits");
    let deadline = Instant::now() + Duration::from_secs(60);
    let load = pair.one.write(&batch, Tag::new(1), deadline);
    let mut ahead = 0;
    for number in 0..10_u8 {
        let sent = pair.one.send(other, Channel(1), Bytes::copy_from_slice(&[number]), soon());
        assert_eq!(block_on(pair.other.domain().receive(one, Channel(1), soon())), Ok(vec![number].into()));
        assert_eq!(block_on(sent), Ok(()));
        ahead += u32::from(load.outcome().is_none());
    }
    assert!(ahead > 0, "some went ahead of the batch");
    assert_eq!(block_on(load), Ok(()));
    assert_eq!(counter.count(), 1);
}

#[test]
fn a_network_that_is_cut_loses_the_peer_within_a_second() {
    let (pair, relay) = apart(WELL);
    let (one, other) = (pair.one.domain().id(), pair.other.domain().id());
    let waiting = [
        pair.one.domain().readable(other, Channel(0), soon()),
        pair.other.domain().readable(one, Channel(0), soon()),
    ];
    relay.cut();
    let cut = Instant::now();
    for op in waiting {
        assert_eq!(block_on(op), Err(OpError::PeerLost));
    }
    assert!(cut.elapsed() < Duration::from_millis(1300), "{:?}", cut.elapsed());
    assert_eq!(pair.one.domain().peer_state(other), PeerState::Lost(PeerLoss::Silent));
}

/// What a datagram of this end may be long, as far as was found out.
fn datagram_bytes(end: &Quic, peer: PeerId) -> u16 {
    end.shared.books().peers[&peer].connection.stats().path.current_mtu
}

#[test]
fn datagrams_become_as_long_as_the_network_and_the_system_take() {
    let (pair, other) = (Pair::connected(), |pair: &Pair| pair.other.domain().id());
    let write = |pair: &Pair| {
        let (source, target) =
            (region(&pair.one, 100_000, Access::LOCAL), region(&pair.other, 100_000, Access::WRITE));
        let from = [pair.one.domain().id()];
        let _counter = pair.other.domain().expect(Tag::new(1), &from).expect("the tag is free");
        let batch = Batch::single((&source, 0), (&target.key(), 0), 100_000).expect("it fits");
        assert_eq!(block_on(pair.one.write(&batch, Tag::new(1), soon())), Ok(()));
    };
    eventually("the longest that ten fit into a call", || {
        write(&pair);
        datagram_bytes(&pair.one, other(&pair)) == crate::tuning::LARGEST_DATAGRAM
    });
    let (narrow, _relay) = apart(Conditions { largest: 1400, ..WELL });
    for _ in 0..20 {
        write(&narrow);
    }
    let found = datagram_bytes(&narrow.one, other(&narrow));
    assert!((1200..=1400).contains(&found), "{found} bytes");
}
