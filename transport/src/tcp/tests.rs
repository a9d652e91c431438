//! Two transports of one process, over loopback: each way of moving bytes, protected and not.

mod faults;
mod process;
mod rails;
mod strangers;
mod suite;
mod traffic;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::Trust;

use super::*;
use crate::{Access, Memory, TransportExt};

/// How the ends of a pair are made.
#[derive(Clone, Copy, Debug)]
struct Way {
    driver: Driver,
    encrypted: bool,
    rails: u16,
}

const POLL: Way = Way { driver: Driver::Poll, encrypted: false, rails: 2 };
const WAYS: &[Way] = &[
    POLL,
    Way { encrypted: true, ..POLL },
    #[cfg(target_os = "linux")]
    Way { driver: Driver::IoUring, ..POLL },
    #[cfg(target_os = "linux")]
    Way { driver: Driver::IoUring, encrypted: true, rails: 3 },
];

struct Pair {
    one: Tcp,
    other: Tcp,
}

impl Way {
    /// A transport with a domain of its own; of several with one `trust` each trusts all.
    fn end(self, trust: &Trust) -> Tcp {
        let security = if self.encrypted {
            let identity = Identity::generate().expect("generated");
            trust.add(identity.fingerprint());
            Security::Tls { identity, trust: trust.clone() }
        } else {
            Security::Plain
        };
        let config = TcpConfig { driver: self.driver, rails: self.rails, ..TcpConfig::new(security) };
        Tcp::new(&Domain::new(), config.bound_to(Ipv4Addr::LOCALHOST.into())).expect("it starts on loopback")
    }

    fn pair(self) -> Pair {
        let trust = Trust::default();
        let pair = Pair { one: self.end(&trust), other: self.end(&trust) };
        connect(&pair.one, &pair.other).expect("they connect");
        block_on(pair.other.domain().connected(pair.one.domain().id(), soon())).expect("it knows its peer");
        pair
    }
}

fn connect(from: &Tcp, to: &Tcp) -> Result<(), ConnectError> {
    block_on(from.connect(to.domain().id(), &to.addresses(), soon()))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn region(of: &Tcp, len: usize, access: Access) -> Region {
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
