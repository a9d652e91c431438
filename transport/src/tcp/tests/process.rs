//! The peer is another process, which is killed or stopped: this test binary, started again.

use super::*;
use crate::PeerLoss;
use crate::suite::process::{OtherProcess, play_peer, this_test_program};

/// Set in the process that plays the peer: which driver.
const ROLE: &str = "MLXCEL_TEST_TCP_PEER";

impl Way {
    /// Neither process is protected, so that both find the same trust: keys are tested elsewhere.
    fn other_process(self) -> OtherProcess {
        println!("{self:?}");
        let mut command = this_test_program("tcp::tests::process::plays_the_peer");
        command.env(ROLE, if self.driver == Driver::Poll { "poll" } else { "io-uring" });
        OtherProcess::start(self.end(&Trust::default()), command)
    }
}

/// Not a test: what the other process does.
#[test]
#[ignore = "the peer of other tests, which start it"]
fn plays_the_peer() {
    let Ok(driver) = std::env::var(ROLE) else { return };
    let driver = if driver == "poll" { Driver::Poll } else { Driver::IoUring };
    play_peer(&Way { driver, ..POLL }.end(&Trust::default()));
}

fn drivers() -> impl Iterator<Item = Way> {
    WAYS.iter().copied().filter(|way| !way.encrypted)
}

#[test]
fn a_killed_peer_ends_all_writes_within_a_second() {
    drivers().for_each(|way| way.other_process().is_lost_when_killed(PeerLoss::Broken));
}

#[cfg(unix)]
#[test]
fn a_stopped_peer_ends_all_writes_within_a_second() {
    drivers().for_each(|way| way.other_process().is_lost_when_stopped());
}
