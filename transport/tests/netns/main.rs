//! Transports in network namespaces, joined by a cable that loses, delays and is cut.
//!
//! The cable is a pair of TUN devices and this process between them, so that the kernel's own TCP meets bad links
//! where it has no `netem`. Needs root, iproute2 and /dev/net/tun; says so, and passes, where it has not.
#![cfg(target_os = "linux")]

mod cable;
mod lab;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::executor::block_on;
use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::Trust;
use mlxcel_transport::tcp::{Driver, Security, Tcp, TcpConfig};
use mlxcel_transport::{
    Access, Batch, Channel, Domain, Memory, OpError, PeerLoss, PeerState, Region, Tag, Transport,
};

use cable::Quality;
use lab::Lab;

struct Ends {
    one: Tcp,
    other: Tcp,
    lab: Lab,
}

/// Two transports in namespaces of their own, connected over a cable of this quality.
fn ends(driver: Driver, quality: Quality) -> Option<Ends> {
    let lab = Lab::new(quality)?;
    let trust = Trust::default();
    let [one, other] = [0, 1].map(|side| {
        let identity = Identity::generate().expect("generated");
        trust.add(identity.fingerprint());
        let security = Security::Tls { identity, trust: trust.clone() };
        let config = TcpConfig { driver, ..TcpConfig::new(security) };
        lab.inside(side, || Tcp::new(&Domain::new(), config).expect("it listens"))
    });
    connect(&one, &other);
    Some(Ends { one, other, lab })
}

fn connect(one: &Tcp, other: &Tcp) {
    block_on(one.connect(other.domain().id(), &other.addresses(), soon())).expect("it listens");
    block_on(other.domain().connected(one.domain().id(), soon())).expect("it was called");
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn region(of: &Tcp, len: usize, access: Access) -> Region {
    let memory = Memory::zeroed(len).expect("there is memory");
    let region = of.domain().register(memory, access);
    of.attach(&region).expect("it is host memory");
    region
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(17).wrapping_add((at >> 9) as u8) ^ seed).collect()
}

/// Writes `rounds` times and looks at what arrived.
fn write_whole(ends: &Ends, len: usize, rounds: u8) {
    let (source, target) = (region(&ends.one, len, Access::LOCAL), region(&ends.other, len, Access::WRITE));
    let tag = Tag::new(u64::from(rounds));
    let counter = ends.other.domain().expect(tag, &[ends.one.domain().id()]).expect("the tag is free");
    let batch = Batch::single((&source, 0), (&target.key(), 0), len as u64).expect("it fits");
    for round in 0..rounds {
        source.write_at(0, &pattern(len, round));
        assert_eq!(block_on(ends.one.write(&batch, tag, soon())), Ok(()), "round {round}");
        let mut arrived = vec![0; len];
        target.read_at(0, &mut arrived);
        assert!(arrived == pattern(len, round), "round {round} arrived as it was sent");
        assert_eq!(counter.count(), u64::from(round) + 1);
    }
}

const DRIVERS: [Driver; 2] = [Driver::Poll, Driver::IoUring];
/// What the worst link between two sites may look like.
const BAD: Quality = Quality { loss: 0.02, delay: Duration::from_millis(20), bits_per_second: 100e6 };
const GOOD: Quality = Quality { loss: 0.0, delay: Duration::from_millis(1), bits_per_second: 1e9 };

#[test]
fn writes_and_messages_arrive_whole_over_a_bad_link() {
    for driver in DRIVERS {
        let Some(ends) = ends(driver, BAD) else { return };
        write_whole(&ends, 500_000, 4);
        let (one, other) = (ends.one.domain().id(), ends.other.domain().id());
        for number in 0..100_u8 {
            let sent = ends.one.send(other, Channel(0), Bytes::from(pattern(3000, number)), soon());
            drop(sent);
        }
        for number in 0..100_u8 {
            let received = block_on(ends.other.domain().receive(one, Channel(0), soon()));
            assert!(received.expect("it comes") == pattern(3000, number), "message {number}");
        }
    }
}

#[test]
fn a_short_cut_is_survived() {
    for driver in DRIVERS {
        let Some(ends) = ends(driver, GOOD) else { return };
        std::thread::scope(|scope| {
            scope.spawn(|| write_whole(&ends, 4 << 20, 15));
            for _ in 0..2 {
                std::thread::sleep(Duration::from_millis(100));
                ends.lab.cut(true);
                std::thread::sleep(Duration::from_millis(250));
                ends.lab.cut(false);
            }
        });
    }
}

#[test]
fn a_partition_loses_the_peer_within_a_second_and_ends_with_it() {
    for driver in DRIVERS {
        let Some(ends) = ends(driver, GOOD) else { return };
        let (one, other) = (ends.one.domain().id(), ends.other.domain().id());
        let (source, target) =
            (region(&ends.one, 1 << 20, Access::LOCAL), region(&ends.other, 1 << 20, Access::WRITE));
        let counter = ends.other.domain().expect(Tag::new(1), &[one]).expect("the tag is free");
        let batch = Batch::single((&source, 0), (&target.key(), 0), 1 << 20).expect("it fits");
        ends.lab.cut(true);
        let began = Instant::now();
        let arrival = counter.reached(1, soon());
        let written = block_on(ends.one.write(&batch, Tag::new(1), soon()));
        assert_eq!((written, block_on(arrival)), (Err(OpError::PeerLost), Err(OpError::PeerLost)));
        assert!(began.elapsed() < Duration::from_millis(1300), "{:?}", began.elapsed());
        assert_eq!(ends.one.domain().peer_state(other), PeerState::Lost(PeerLoss::Silent));
        ends.lab.cut(false);
        connect(&ends.one, &ends.other);
        write_whole(&ends, 1 << 20, 2);
    }
}
