//! The suite over protected connections; the suite's own tests have plain ones.

use std::sync::Arc;

use super::*;
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
