//! The peer is another process, which is killed or stopped: this test binary, started again.

use std::path::{Path, PathBuf};

use mlxcel_transport::PeerLoss;
use mlxcel_transport::suite::process::{OtherProcess, play_peer, this_test_program};

use super::*;

/// Set in the process that plays the peer: where both find their key.
const ROLE: &str = "MLXCEL_TEST_QUIC_PEER";

/// Where the one host that both processes are keeps its key. It is removed when this is dropped.
struct Host(PathBuf);

impl Host {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("mlxcel-quic-{name}-{}", std::process::id())))
    }

    fn other_process(&self) -> OtherProcess {
        let end = end_at(&self.0);
        let mut command = this_test_program("tests::process::plays_the_peer");
        command.env(ROLE, &self.0);
        OtherProcess::start(end, command)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn end_at(directory: &Path) -> Quic {
    let identity = Identity::load_or_create(directory).expect("it can be kept there");
    let trust = Trust::of([identity.fingerprint()]);
    end_of(identity, &trust)
}

/// Not a test: what the other process does.
#[test]
#[ignore = "the peer of other tests, which start it"]
fn plays_the_peer() {
    let Ok(directory) = std::env::var(ROLE) else { return };
    play_peer(&end_at(Path::new(&directory)));
}

#[test]
fn a_killed_peer_ends_all_writes_within_a_second() {
    Host::new("killed").other_process().is_lost_when_killed(PeerLoss::Silent);
}

#[cfg(unix)]
#[test]
fn a_stopped_peer_ends_all_writes_within_a_second() {
    Host::new("stopped").other_process().is_lost_when_stopped();
}
