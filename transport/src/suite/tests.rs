//! The suite over what runs in one process: copies, faulty wires in virtual time, and TCP over loopback.

use std::net::Ipv4Addr;

use super::*;
use crate::contract::block_on;
use crate::core::LinkConfig;
use crate::domain::Domain;
use crate::{faulty, inprocess, tcp};

struct InProcess;

impl Lab for InProcess {
    fn pair(&self) -> Ends {
        let network = inprocess::Network::new();
        let (one, other) = (network.endpoint(), network.endpoint());
        join(&*one, &*other);
        Ends { one, other }
    }

    fn kill_other(&self, ends: &Ends) -> bool {
        ends.other.disconnect(ends.one.domain().id());
        true
    }
}

/// Wires that break now and then.
struct Faulty {
    network: Arc<faulty::Network>,
}

impl Faulty {
    fn new() -> Self {
        let conditions = faulty::Conditions { breaks_per_million: 500, ..faulty::Conditions::default() };
        Self { network: faulty::Network::new(11, 3, conditions, LinkConfig::default()) }
    }
}

impl Lab for Faulty {
    fn pair(&self) -> Ends {
        let (one, other) = (self.network.endpoint(), self.network.endpoint());
        join(&*one, &*other);
        Ends { one, other }
    }

    fn wait(&self, _: &Ends, op: Op) -> Result<(), OpError> {
        self.network.wait(&op)
    }

    fn now(&self, _: &Ends) -> Instant {
        self.network.now()
    }

    fn pass(&self, _: &Ends, time: Duration) {
        self.network.pass(time);
    }

    fn kill_other(&self, ends: &Ends) -> bool {
        self.network.kill(ends.other.domain().id());
        true
    }
}

struct Tcp {
    driver: tcp::Driver,
}

impl Lab for Tcp {
    fn pair(&self) -> Ends {
        let end = || {
            let config = tcp::TcpConfig { driver: self.driver, ..tcp::TcpConfig::new(tcp::Security::Plain) };
            let config = config.bound_to(Ipv4Addr::LOCALHOST.into());
            Arc::new(tcp::Tcp::new(&Domain::new(), config).expect("it starts on loopback"))
        };
        let (one, other) = (end(), end());
        join(&*one, &*other);
        Ends { one, other }
    }

    /// Processes are killed in the tests of TCP.
    fn kill_other(&self, _: &Ends) -> bool {
        false
    }
}

fn join(one: &dyn Transport, other: &dyn Transport) {
    let soon = Instant::now() + Duration::from_secs(10);
    block_on(one.connect(other.domain().id(), &other.addresses(), soon)).expect("they can be connected");
    block_on(other.domain().connected(one.domain().id(), soon)).expect("both know");
}

fn all(lab: &dyn Lab) {
    let checks = CHECKS.iter().map(|checks| checks.len()).sum::<usize>();
    assert_eq!(run(lab, "").len(), checks);
}

#[test]
fn copies_in_one_process_keep_the_contract() {
    all(&InProcess);
}

#[test]
fn wires_that_break_keep_the_contract() {
    all(&Faulty::new());
}

#[test]
fn tcp_on_readiness_keeps_the_contract() {
    all(&Tcp { driver: tcp::Driver::Poll });
}

#[test]
#[cfg(target_os = "linux")]
fn tcp_on_io_uring_keeps_the_contract() {
    all(&Tcp { driver: tcp::Driver::IoUring });
}
