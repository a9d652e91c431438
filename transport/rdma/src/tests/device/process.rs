//! The peer is another process, which is killed or stopped: this test binary, started again.

use mlxcel_transport::PeerLoss;
use mlxcel_transport::suite::process::{OtherProcess, play_peer, this_test_program};

use super::*;

/// Set in the process that plays the peer.
const ROLE: &str = "MLXCEL_TEST_RDMA_PEER";

fn other_process() -> OtherProcess {
    let mut command = this_test_program("tests::device::process::plays_the_peer");
    command.env(ROLE, "1");
    OtherProcess::start(plain(), command)
}

/// Not a test: what the other process does.
#[test]
#[ignore = "the peer of other tests, which start it"]
fn plays_the_peer() {
    if std::env::var_os(ROLE).is_some() {
        play_peer(&plain());
    }
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_killed_peer_ends_all_writes_within_a_second() {
    other_process().is_lost_when_killed(PeerLoss::Broken);
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_stopped_peer_ends_all_writes_within_a_second() {
    other_process().is_lost_when_stopped();
}
