//! The peer is another process, which is killed or stopped: this test binary, started again.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use mlxcel_transport::{Key, PeerLoss, PeerState};

use super::*;

/// Set in the process that plays the peer.
const ROLE: &str = "MLXCEL_TEST_RDMA_PEER";
const KEYS: Channel = Channel(9);
const SIZE: usize = 4 << 20;

/// Another process that has given us a region to write to.
struct Peer {
    process: Child,
    /// Ends the process when it is closed.
    _life: ChildStdin,
    id: PeerId,
    key: Key,
    end: Rdma,
}

impl Peer {
    fn start() -> Self {
        let end = plain();
        let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
        command.args(["--exact", "tests::device::process::plays_the_peer", "--ignored", "--nocapture"]);
        let command = command.env(ROLE, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("it starts again");
        let mut life = process.stdin.take().expect("piped");
        let id = end.domain().id().to_bytes().map(|byte| format!("{byte:02x}")).concat();
        writeln!(life, "{id} {}", end.addresses()[0].socket).expect("it listens");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let mut lines = lines.map(|line| line.expect("text"));
        let line = lines.find(|line| line.starts_with("peer ")).expect("it says who it is");
        let id = id_of(line.trim_start_matches("peer "));
        block_on(end.domain().connected(id, soon())).expect("it connects");
        let key = block_on(end.domain().receive(id, KEYS, soon())).expect("it gives a key");
        Self { process, _life: life, id, key: Key::from_bytes(&key).expect("a key"), end }
    }

    /// Writes of 4 MiB each, in flight.
    fn writes(&self) -> Vec<Op> {
        let source = region(&self.end, SIZE, Access::LOCAL);
        let batch = Batch::single((&source, 0), (&self.key, 0), SIZE as u64).expect("it fits");
        (0..50).map(|_| self.end.write(&batch, Tag::new(1), soon())).collect()
    }

    /// All of these end, with the peer's loss, in time.
    fn is_lost_with(&self, ops: Vec<Op>, how: PeerLoss) {
        let began = Instant::now();
        let outcomes: Vec<_> = ops.into_iter().map(block_on).collect();
        println!("lost after {:.2} s", began.elapsed().as_secs_f64());
        assert!(began.elapsed() < Duration::from_millis(1300), "{:?}", began.elapsed());
        assert_eq!(outcomes.last(), Some(&Err(OpError::PeerLost)));
        assert_eq!(self.end.domain().peer_state(self.id), PeerState::Lost(how));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn id_of(text: &str) -> PeerId {
    let number = u128::from_str_radix(text, 16).expect("32 hex digits");
    PeerId::from_bytes(number.to_be_bytes())
}

/// Not a test: what the other process does.
#[test]
#[ignore = "the peer of other tests, which start it"]
fn plays_the_peer() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let end = plain();
    println!("\npeer {}", end.domain().id().to_bytes().map(|byte| format!("{byte:02x}")).concat());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("it is told");
    let (id, socket) = line.trim().split_once(' ').expect("two words");
    let (id, socket) = (id_of(id), socket.parse().expect("an address"));
    let region = region(&end, SIZE, Access::WRITE);
    let _counter = end.domain().expect(Tag::new(1), &[id]).expect("the tag is free");
    block_on(end.connect(id, &[Address { kind: Kind::Rdma, socket }], soon())).expect("it listens");
    block_on(end.send(id, KEYS, region.key().to_bytes().into(), soon())).expect("sent");
    // Until the test ends.
    let _ = std::io::stdin().read_line(&mut line);
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_killed_peer_ends_all_writes_within_a_second() {
    let mut peer = Peer::start();
    let ops = peer.writes();
    peer.process.kill().expect("it runs");
    peer.is_lost_with(ops, PeerLoss::Broken);
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_stopped_peer_ends_all_writes_within_a_second() {
    let peer = Peer::start();
    let ops = peer.writes();
    // SAFETY: the process is ours, and has not been waited for.
    assert_eq!(unsafe { libc::kill(peer.process.id() as i32, libc::SIGSTOP) }, 0);
    peer.is_lost_with(ops, PeerLoss::Silent);
}
