//! Two transports of one process, or of two, over a device of this host.
//!
//! Ignored where tests are run without one.

mod faults;
mod hosts;
mod idle;
mod process;
mod regions;
mod selection;
mod strangers;
mod suite;
mod traffic;
mod unregistered;

use futures::executor::block_on;
use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::Trust;
use mlxcel_transport::{Access, Memory, TransportExt};

use super::*;

struct Pair {
    one: Rdma,
    other: Rdma,
}

impl Pair {
    fn connected() -> Self {
        let pair = Self { one: plain(), other: plain() };
        connect(&pair.one, &pair.other).expect("they connect");
        block_on(pair.other.domain().connected(pair.one.domain().id(), soon())).expect("it knows its peer");
        pair
    }
}

/// A transport with a domain of its own.
fn end(security: Security) -> Rdma {
    Rdma::new(&Domain::new(), &RdmaConfig::new(security)).expect("there is a device")
}

fn plain() -> Rdma {
    end(Security::Plain)
}

/// A transport that shows a key; of several with one `trust` each trusts all.
fn protected(trust: &Trust) -> Rdma {
    let identity = Identity::generate().expect("generated");
    trust.add(identity.fingerprint());
    end(Security::Tls { identity, trust: trust.clone() })
}

fn connect(from: &Rdma, to: &Rdma) -> Result<(), ConnectError> {
    block_on(from.connect(to.domain().id(), &to.addresses(), soon()))
}

fn region(of: &Rdma, len: usize, access: Access) -> Region {
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
