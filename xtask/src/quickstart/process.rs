//! A running `mlxcel` whose output is read and whose log is kept.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Longest wait for a line or for an orderly end.
const PATIENCE: Duration = Duration::from_secs(60);

/// One process; killed when dropped.
pub(super) struct Running {
    name: String,
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Running {
    /// Starts `command`, with its standard error in the file `log`.
    pub(super) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let errors = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = piped.spawn().with_context(|| format!("cannot start {name}"))?;
        let out = child.stdout.take().context("its output is piped")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, lines, log: log.to_owned() })
    }

    /// Waits for a line that contains `part`.
    pub(super) fn wait_for(&self, part: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return Ok(line),
                Ok(_) => {}
                Err(_) => bail!("{} did not start; its log:\n{}", self.name, self.log_text()),
            }
        }
    }

    /// Ends it without warning, as a power cut would.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// Asks it to end, and waits.
    pub(super) fn end(&mut self) -> Result<()> {
        if !ask_to_end(self.child.id()) {
            return self.kill();
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} ended with {status}; its log:\n{}", self.name, self.log_text()),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        bail!("{} did not end when asked; its log:\n{}", self.name, self.log_text())
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has usually ended by now.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends SIGTERM where there is one; false elsewhere.
fn ask_to_end(pid: u32) -> bool {
    cfg!(unix)
        && Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .is_ok_and(|status| status.success())
}
