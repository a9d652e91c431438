//! What every transport is held to.

use mlxcel_transport::suite::overwritten::{self, Load};
use mlxcel_transport::suite::{CHECKS, Ends, Lab, run};

use super::*;

struct Soft;

impl Lab for Soft {
    fn pair(&self) -> Ends {
        let Pair { one, other } = Pair::connected();
        Ends { one: Arc::new(one), other: Arc::new(other) }
    }

    /// Processes are killed in `process`, hosts in `hosts`.
    fn kill_other(&self, _: &Ends) -> bool {
        false
    }
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn rdma_keeps_the_contract() {
    let mut ran = 0;
    for (name, _) in CHECKS.iter().copied().flatten() {
        let begun = Instant::now();
        ran += run(&Soft, name).len();
        println!("{name}: {:.2} s", begun.elapsed().as_secs_f64());
    }
    assert_eq!(ran, CHECKS.iter().map(|checks| checks.len()).sum::<usize>());
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_batch_whose_bytes_changed_on_the_way_is_not_counted() {
    let load = Load { writes: 32, bytes: 1 << 20, patience: Duration::from_millis(1) };
    overwritten::check(&Soft, load);
}
