//! The peer is another process, which is killed or stopped: a test program that is started again.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::contract::{
    Access, Address, Batch, Channel, Key, Memory, Op, OpError, PeerId, PeerLoss, Tag, Transport,
    TransportExt, block_on,
};
use crate::domain::PeerState;

/// Where the other process sends the key of its region.
const KEYS: Channel = Channel(9);
/// Bytes of the region, and of each write.
const BYTES: usize = 8 << 20;
/// A second, and what a busy machine takes to notice.
const A_SECOND: Duration = Duration::from_millis(1300);

/// Another process that has given us a region to write to. It is killed when this is dropped.
pub struct OtherProcess {
    process: Child,
    /// Ends the process when it is closed.
    _life: ChildStdin,
    id: PeerId,
    key: Key,
    end: Box<dyn Transport>,
}

/// The program that runs now, to be started as its ignored test `name` alone, which is to call [`play_peer`].
///
/// # Panics
/// Where a program does not know its path.
#[must_use]
pub fn this_test_program(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    command
}

impl OtherProcess {
    /// Starts the peer of `end`.
    ///
    /// # Panics
    /// When it does not start, or does not connect.
    pub fn start(end: impl Transport + 'static, mut command: Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the program starts again");
        let mut life = process.stdin.take().expect("piped");
        writeln!(life, "{}", introduction(&end)).expect("it listens");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let mut lines = lines.map(|line| line.expect("text"));
        let line = lines.find_map(|line| line.strip_prefix("peer ").map(str::to_owned));
        let (id, _) = introduced(&end, &line.expect("it says who it is"));
        block_on(end.domain().connected(id, soon())).expect("it connects");
        let key = block_on(end.domain().receive(id, KEYS, soon())).expect("it gives a key");
        Self { process, _life: life, id, key: Key::from_bytes(&key).expect("a key"), end: Box::new(end) }
    }

    /// Checks that all writes to a process that is killed end within a second, and that it is lost in this way.
    ///
    /// # Panics
    /// When they do not.
    pub fn is_lost_when_killed(mut self, how: PeerLoss) {
        let ops = self.writes();
        self.process.kill().expect("it runs");
        self.all_are_lost(ops, how);
    }

    /// Checks that all writes to a process that is stopped, and says nothing more, end within a second.
    ///
    /// # Panics
    /// When they do not.
    #[cfg(unix)]
    pub fn is_lost_when_stopped(self) {
        let ops = self.writes();
        // SAFETY: the process is ours, and has not been waited for.
        assert_eq!(unsafe { libc::kill(self.process.id() as i32, libc::SIGSTOP) }, 0);
        self.all_are_lost(ops, PeerLoss::Silent);
    }

    /// More writes than end before the process does.
    fn writes(&self) -> Vec<Op> {
        let memory = Memory::zeroed(BYTES).expect("there is memory");
        let source = self.end.register(memory, Access::LOCAL).expect("it is host memory");
        let batch = Batch::single((&source, 0), (&self.key, 0), BYTES as u64).expect("it fits");
        (0..50).map(|_| self.end.write(&batch, Tag::new(1), soon())).collect()
    }

    fn all_are_lost(&self, ops: Vec<Op>, how: PeerLoss) {
        let began = Instant::now();
        let outcomes: Vec<_> = ops.into_iter().map(block_on).collect();
        println!("lost after {:.2} s", began.elapsed().as_secs_f64());
        assert!(began.elapsed() < A_SECOND, "{:?}", began.elapsed());
        assert_eq!(outcomes.last(), Some(&Err(OpError::PeerLost)));
        assert_eq!(self.end.domain().peer_state(self.id), PeerState::Lost(how));
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the other process does with its end, until the process that started it is done.
///
/// # Panics
/// When it is not told whom to connect to, or cannot.
pub fn play_peer(end: &dyn Transport) {
    println!("\npeer {}", introduction(end));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("it is told");
    let (id, address) = introduced(end, &line);
    let memory = Memory::zeroed(BYTES).expect("there is memory");
    let region = end.register(memory, Access::WRITE).expect("it is host memory");
    let _counter = end.domain().expect(Tag::new(1), &[id]).expect("the tag is free");
    block_on(end.connect(id, &[address], soon())).expect("it listens");
    block_on(end.send(id, KEYS, region.key().to_bytes().into(), soon())).expect("sent");
    let _ = std::io::stdin().read_line(&mut line);
}

/// A line that says who this end is and where it listens.
#[must_use]
pub fn introduction(end: &dyn Transport) -> String {
    let id = u128::from_be_bytes(end.domain().id().to_bytes());
    format!("{id:032x} {}", end.addresses()[0].socket)
}

/// Who an [`introduction`] by an end of the same kind is of.
///
/// # Panics
/// When the line is none.
#[must_use]
pub fn introduced(end: &dyn Transport, line: &str) -> (PeerId, Address) {
    let (id, socket) = line.trim().split_once(' ').expect("two words");
    let id = u128::from_str_radix(id, 16).expect("32 hex digits");
    let socket = socket.parse().expect("an address");
    (PeerId::from_bytes(id.to_be_bytes()), Address { kind: end.kind(), socket })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}
