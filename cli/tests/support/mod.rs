//! Real `mlxcel` processes for tests: started, read, killed, and never left behind.

#![allow(dead_code, clippy::expect_used, reason = "shared by test programs that each use a part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longest wait for anything a test waits for; generous, since CI machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The program under test.
pub fn mlxcel() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlxcel"));
    command.stdin(Stdio::null()).env_remove("MLXCEL_LOG").env_remove("MLXCEL_TOKEN");
    command
}

/// The GGUF file of the default model.
pub fn smollm2() -> PathBuf {
    std::env::var_os("MLXCEL_TEST_SMOLLM2")
        .map(PathBuf::from)
        .expect("MLXCEL_TEST_SMOLLM2 names the default model's GGUF file; `./x test` sets it")
}

/// A running `mlxcel` server; killed when dropped.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
}

impl Server {
    /// Starts `mlxcel` with these arguments.
    pub fn start(args: &[&str]) -> Self {
        let mut child = mlxcel().args(args).stdout(Stdio::piped()).spawn().expect("mlxcel starts");
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
    pub fn wait_for(&self, part: &str) -> String {
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
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Asks it to end, as a service manager would, and waits; its exit code.
    #[cfg(unix)]
    pub fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The `host:port` in a line that names an address as a URL.
pub fn address_in(line: &str) -> String {
    let rest = line.split("http://").nth(1).expect("the line names a URL");
    rest.split(['/', ' ']).next().expect("the URL has a host").to_owned()
}

/// Sends one HTTP/1.1 request and returns status and body; the body is read to its end.
pub fn http(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = open(address, method, path, body);
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the answer is text");
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    let (head, body) = text.split_once("\r\n\r\n").expect("headers end");
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    (status, if chunked { unchunk(body) } else { body.to_owned() })
}

/// Sends one HTTP/1.1 request and leaves the answer to be read.
pub fn open(address: &str, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeouts can be set");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("the request is sent");
    stream
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
        if size == 0 {
            break;
        }
        text.push_str(&rest[..size]);
        body = rest[size..].strip_prefix("\r\n").unwrap_or("");
    }
    text
}

/// The JSON values of an SSE body, and whether it ended with `[DONE]`.
pub fn sse(body: &str) -> (Vec<serde_json::Value>, bool) {
    let data: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let done = data.last() == Some(&"[DONE]");
    let values = data.iter().filter(|text| **text != "[DONE]");
    (values.map(|text| serde_json::from_str(text).expect("an event is JSON")).collect(), done)
}

/// Waits until `check` holds.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
