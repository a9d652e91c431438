//! A virtual machine under software emulation, and what it says on its console.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Lab;

/// How a machine is connected.
pub(super) enum Network {
    /// With itself: packets of its device never leave it.
    Alone,
    /// With another machine.
    Linked { socket: PathBuf, is_first: bool },
}

/// A link between two machines.
pub(super) struct Link(PathBuf);

/// A machine that runs. Dropping it cuts its power.
pub(super) struct Machine {
    name: &'static str,
    process: Child,
    lines: Receiver<String>,
}

impl Link {
    pub(super) fn new(directory: &Path) -> Self {
        let socket = directory.join("link");
        // Of a run before.
        std::fs::remove_file(&socket).ok();
        Self(socket)
    }

    pub(super) fn first(&self) -> Network {
        Network::Linked { socket: self.0.clone(), is_first: true }
    }

    pub(super) fn second(&self) -> Network {
        Network::Linked { socket: self.0.clone(), is_first: false }
    }
}

impl Network {
    /// The variables that the first process reads.
    fn variables(&self) -> String {
        match self {
            Self::Alone => "NETDEV=dummy0 ADDRESS=10.8.0.1/24".to_owned(),
            Self::Linked { is_first, .. } => {
                let own = if *is_first { 1 } else { 2 };
                format!("NETDEV=eth0 ADDRESS=10.8.0.{own}/24 MLXCEL_TEST_RDMA_DESK=10.8.0.1:7471")
            }
        }
    }

    fn devices(&self) -> Vec<String> {
        let Self::Linked { socket, is_first } = self else { return Vec::new() };
        let server = if *is_first { "on" } else { "off" };
        let path = socket.display();
        let number = if *is_first { 1 } else { 2 };
        vec![
            "-netdev".to_owned(),
            format!("stream,id=n0,server={server},addr.type=unix,addr.path={path}"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=n0,host_mtu=4200,romfile=,mac=52:54:00:00:00:0{number}"),
        ]
    }
}

impl Machine {
    /// Boots; `tests` is what the test program is told, with commas between.
    pub(super) fn start(name: &'static str, lab: &Lab, tests: &str, network: &Network) -> Result<Self> {
        if let Network::Linked { socket, is_first: false } = network {
            wait_for_file(socket)?;
        }
        let variables = network.variables();
        let kernel_line =
            format!("console=ttyS0 quiet panic=-1 mitigations=off rdinit=/init {variables} TESTS={tests}");
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "768"])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-serial",
                "stdio",
                "-monitor",
                "none",
            ])
            .args(["-no-reboot", "-kernel"])
            .arg(&lab.kernel)
            .arg("-initrd")
            .arg(&lab.archive)
            .args(["-append", &kernel_line])
            .args(network.devices())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot start qemu")?;
        let console = process.stdout.take().context("the console is piped")?;
        let (says, lines) = channel();
        std::thread::spawn(move || {
            let mut console = BufReader::new(console);
            let mut line = Vec::new();
            while console.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                println!("    {name}: {text}");
                // Who no longer listens has heard enough.
                let _ = says.send(text);
                line.clear();
            }
        });
        Ok(Self { name, process, lines })
    }

    /// Waits for a line with this in it.
    pub(super) fn wait_for(&self, wanted: &str, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        while let Some(line) = self.next_line(until)? {
            if line.contains(wanted) {
                return Ok(());
            }
        }
        bail!("{} turned itself off before it said `{wanted}`", self.name)
    }

    /// Waits until it turns itself off: what it has said.
    pub(super) fn wait(mut self, limit: Duration) -> Result<String> {
        let until = Instant::now() + limit;
        let mut said = String::new();
        while let Some(line) = self.next_line(until)? {
            said.push_str(&line);
            said.push('\n');
        }
        let status = self.process.wait().context("cannot wait for qemu")?;
        if !status.success() {
            bail!("qemu ended with {status}");
        }
        Ok(said)
    }

    fn next_line(&self, until: Instant) -> Result<Option<String>> {
        match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("{} is not done in time", self.name),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have turned itself off.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait_for_file(path: &Path) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    while !path.exists() {
        if Instant::now() >= until {
            bail!("the first machine does not listen at {}", path.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
