//! What every transport is held to: the suite's own tests have plain connections, these the others.

use std::sync::Arc;

use super::*;
use crate::suite::overwritten::{self, Load};
use crate::suite::{Ends, Lab, run};

struct Loopback(Way);

impl Lab for Loopback {
    fn pair(&self) -> Ends {
        let Pair { one, other } = self.0.pair();
        Ends { one: Arc::new(one), other: Arc::new(other) }
    }

    /// Processes are killed in `process`.
    fn kill_other(&self, _: &Ends) -> bool {
        false
    }
}

#[test]
fn protected_connections_keep_the_contract() {
    for way in WAYS.iter().filter(|way| way.encrypted) {
        assert!(!run(&Loopback(*way), "").is_empty());
    }
}

#[test]
fn a_batch_whose_bytes_changed_on_the_way_is_not_counted() {
    for way in WAYS {
        println!("{way:?}");
        let load = Load { writes: 64, bytes: 3 << 20, patience: Duration::from_micros(100) };
        overwritten::check(&Loopback(*way), load);
    }
}
