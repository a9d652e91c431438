//! The peer is another process, which is killed or stopped: this test binary, started again.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::*;
use crate::{Key, PeerLoss, PeerState};

/// Set in the process that plays the peer: which driver, whether protected.
const ROLE: &str = "MLXCEL_TEST_TCP_PEER";
const KEYS: Channel = Channel(9);
const SIZE: usize = 8 << 20;

/// Another process that has given us a region to write to.
struct Peer {
    process: Child,
    /// Ends the process when it is closed.
    _life: ChildStdin,
    id: PeerId,
    key: Key,
    end: Tcp,
}

impl Way {
    fn peer(self) -> Peer {
        // Both processes find the same trust where neither is protected: keys are tested elsewhere.
        let end = self.end(&Trust::default());
        let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
        command.args(["--exact", "tcp::tests::process::plays_the_peer", "--ignored", "--nocapture"]);
        command.env(ROLE, if self.driver == Driver::Poll { "poll" } else { "io-uring" });
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts again");
        let mut life = process.stdin.take().expect("piped");
        let id = end.domain().id().to_bytes().map(|byte| format!("{byte:02x}")).concat();
        writeln!(life, "{id} {}", end.addresses()[0].socket).expect("it listens");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let mut lines = lines.map(|line| line.expect("text"));
        let line = lines.find(|line| line.starts_with("peer ")).expect("it says who it is");
        let id = id_of(line.trim_start_matches("peer "));
        block_on(end.domain().connected(id, soon())).expect("it connects");
        let key = block_on(end.domain().receive(id, KEYS, soon())).expect("it gives a key");
        Peer { process, _life: life, id, key: Key::from_bytes(&key).expect("a key"), end }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Peer {
    /// Writes of 8 MiB each, in flight.
    fn writes(&self) -> Vec<Op> {
        let source = region(&self.end, SIZE, Access::LOCAL);
        let batch = Batch::single((&source, 0), (&self.key, 0), SIZE as u64).expect("it fits");
        (0..50).map(|_| self.end.write(&batch, Tag::new(1), soon())).collect()
    }
}

fn id_of(text: &str) -> PeerId {
    let number = u128::from_str_radix(text, 16).expect("32 hex digits");
    PeerId::from_bytes(number.to_be_bytes())
}

/// Not a test: what the other process does.
#[test]
#[ignore = "the peer of other tests, which start it"]
fn plays_the_peer() {
    let Ok(driver) = std::env::var(ROLE) else { return };
    let driver = if driver == "poll" { Driver::Poll } else { Driver::IoUring };
    let end = Way { driver, ..POLL }.end(&Trust::default());
    println!("\npeer {}", end.domain().id().to_bytes().map(|byte| format!("{byte:02x}")).concat());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("it is told");
    let (id, socket) = line.trim().split_once(' ').expect("two words");
    let (id, socket) = (id_of(id), socket.parse().expect("an address"));
    let region = region(&end, SIZE, Access::WRITE);
    let _counter = end.domain().expect(Tag::new(1), &[id]).expect("the tag is free");
    block_on(end.connect(id, &[Address { kind: Kind::Tcp, socket }], soon())).expect("it listens");
    block_on(end.send(id, KEYS, region.key().to_bytes().into(), soon())).expect("sent");
    // Until the test ends.
    let _ = std::io::stdin().read_line(&mut line);
}

fn drivers() -> impl Iterator<Item = Way> {
    WAYS.iter().copied().filter(|way| !way.encrypted)
}

#[test]
fn a_killed_peer_ends_all_writes_within_a_second() {
    for way in drivers() {
        let mut peer = way.peer();
        let ops = peer.writes();
        peer.process.kill().expect("it runs");
        let killed = Instant::now();
        let outcomes: Vec<_> = ops.into_iter().map(block_on).collect();
        assert!(killed.elapsed() < Duration::from_millis(1200), "{way:?}: {:?}", killed.elapsed());
        assert_eq!(outcomes.last(), Some(&Err(OpError::PeerLost)), "{way:?}");
        assert_eq!(peer.end.domain().peer_state(peer.id), PeerState::Lost(PeerLoss::Broken), "{way:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_stopped_peer_ends_all_writes_within_a_second() {
    for way in drivers() {
        let peer = way.peer();
        let ops = peer.writes();
        let stop = Command::new("kill").args(["-STOP", &peer.process.id().to_string()]).status();
        assert!(stop.expect("kill is there").success());
        let stopped = Instant::now();
        let outcomes: Vec<_> = ops.into_iter().map(block_on).collect();
        assert!(stopped.elapsed() < Duration::from_millis(1300), "{way:?}: {:?}", stopped.elapsed());
        assert_eq!(outcomes.last(), Some(&Err(OpError::PeerLost)), "{way:?}");
        assert_eq!(peer.end.domain().peer_state(peer.id), PeerState::Lost(PeerLoss::Silent), "{way:?}");
    }
}
