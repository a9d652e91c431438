//! What every transport is held to.

use mlxcel_transport::suite::overwritten::{self, Load};
use mlxcel_transport::suite::{CHECKS, Ends, Lab, run};

use super::*;

struct Loopback;

impl Lab for Loopback {
    fn pair(&self) -> Ends {
        let Pair { one, other } = Pair::connected();
        Ends { one: Arc::new(one), other: Arc::new(other) }
    }

    /// Processes are killed in `process`.
    fn kill_other(&self, _: &Ends) -> bool {
        false
    }
}

#[test]
fn quic_keeps_the_contract() {
    let checks = CHECKS.iter().map(|checks| checks.len()).sum::<usize>();
    assert_eq!(run(&Loopback, "").len(), checks);
}

#[test]
fn a_batch_whose_bytes_changed_on_the_way_is_not_counted() {
    let load = Load { writes: 64, bytes: 2 << 20, patience: Duration::from_micros(100) };
    overwritten::check(&Loopback, load);
}
