//! Real `mlxcel` processes for tests: started, read, killed, and never left behind.

#![allow(dead_code, clippy::expect_used, reason = "shared by test programs that each use a part")]

pub(crate) mod checkpoint;
#[cfg(unix)]
pub(crate) mod cluster;
pub(crate) mod http;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longest wait for anything a test waits for; generous, since CI machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test, untouched by what the environment says to a user's own.
pub(crate) fn mlxcel() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlxcel"));
    for name in ["MLXCEL_LOG", "MLXCEL_TOKEN", "MLXCEL_API_KEY", "MLXCEL_STATE_DIR"] {
        command.env_remove(name);
    }
    // What help is wrapped at.
    command.env("COLUMNS", "100").stdin(Stdio::null());
    command
}

/// The GGUF file of the default model.
pub(crate) fn smollm2() -> String {
    let path = std::env::var_os("MLXCEL_TEST_SMOLLM2")
        .map(PathBuf::from)
        .expect("MLXCEL_TEST_SMOLLM2 names the default model's GGUF file; `./x test` sets it");
    path.to_str().expect("the path is UTF-8").to_owned()
}

/// What a command printed, as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the output is UTF-8").replace("\r\n", "\n")
}

/// Runs a command that must succeed; what it printed on standard output.
pub(crate) fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("mlxcel runs");
    assert!(status.success(), "{status}: {}", text(&stderr));
    text(&stdout)
}

/// A running `mlxcel` server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    lines: Receiver<String>,
}

impl Server {
    /// Starts `mlxcel` with these arguments.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::spawn(mlxcel().args(args))
    }

    /// Starts a server command.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("mlxcel starts");
        let out = BufReader::new(child.stdout.take().expect("its output is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line of its output that contains `part`.
    pub(crate) fn wait_for(&self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {part:?} came"));
            if line.contains(part) {
                return line;
            }
        }
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it without warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Asks it to end, as a service manager would.
    #[cfg(unix)]
    pub(crate) fn terminate(&self) {
        signal("TERM", self.child.id());
    }

    /// Waits for its end; its exit code, or none where a signal ended it.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the end of the process", || {
            status = self.child.try_wait().expect("it can be waited for");
            status.is_some()
        });
        status.and_then(|it| it.code())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a signal to any process.
#[cfg(unix)]
pub(crate) fn signal(name: &str, pid: u32) {
    // The shell's own `kill`: the program of that name is not installed everywhere.
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status();
    assert!(status.expect("a shell runs").success(), "{pid} cannot be sent {name}");
}

/// Whether a process runs; one that has ended and waits for its parent does not.
#[cfg(unix)]
pub(crate) fn is_running(pid: u32) -> bool {
    if cfg!(target_os = "linux") {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        return !matches!(state, None | Some('Z' | 'X'));
    }
    let output = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output();
    let state = text(&output.expect("ps runs").stdout);
    !state.trim().is_empty() && !state.trim_start().starts_with('Z')
}

/// Waits until `check` holds.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
