//! What needs no device is tested beside what it is; the rest, in `device`, runs where there is one: in the virtual
//! machine with Soft-RoCE that `./x test --only rdma` starts.

mod device;

use std::time::Duration;

use mlxcel_transport::tcp::Security;

use super::*;

#[test]
fn a_device_that_is_not_there_is_said_to_be_missing() {
    let config = RdmaConfig { device: Some("none-of-this-name".into()), ..RdmaConfig::new(Security::Plain) };
    let refused = Rdma::new(&Domain::new(), &config).map(drop).expect_err("there is no such device");
    assert!(matches!(refused, RdmaError::Unavailable(_)), "{refused:?}");
    assert!(["no device", "no libibverbs"].contains(&refused.to_string().as_str()), "{refused}");
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}
