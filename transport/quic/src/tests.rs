//! Two transports of one process, over loopback.

mod faults;
mod lossy;
mod migration;
mod process;
mod relay;
mod selection;
mod strangers;
mod suite;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::Trust;
use mlxcel_transport::{Access, Memory, TransportExt};

use super::*;

struct Pair {
    one: Quic,
    other: Quic,
}

impl Pair {
    fn connected() -> Self {
        let trust = Trust::default();
        let pair = Self { one: end(&trust), other: end(&trust) };
        connect(&pair.one, &pair.other).expect("they connect");
        block_on(pair.other.domain().connected(pair.one.domain().id(), soon())).expect("it knows its peer");
        pair
    }
}

/// A transport with a domain and a key of its own; of several with one `trust` each trusts all.
fn end(trust: &Trust) -> Quic {
    let identity = Identity::generate().expect("generated");
    trust.add(identity.fingerprint());
    end_of(identity, trust)
}

fn end_of(identity: Identity, trust: &Trust) -> Quic {
    let config = QuicConfig::new(identity, trust.clone()).bound_to(Ipv4Addr::LOCALHOST.into());
    Quic::new(&Domain::new(), &config).expect("it starts on loopback")
}

fn connect(from: &Quic, to: &Quic) -> Result<(), ConnectError> {
    block_on(from.connect(to.domain().id(), &to.addresses(), soon()))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn region(of: &Quic, len: usize, access: Access) -> Region {
    of.register(Memory::zeroed(len).expect("there is memory"), access).expect("it is host memory")
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed).collect()
}

fn contents(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len()];
    region.read_at(0, &mut bytes);
    bytes
}

/// Waits for something that is not an operation.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = soon();
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(1));
    }
}
