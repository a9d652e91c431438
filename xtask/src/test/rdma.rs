//! RDMA without its hardware: the tests of `transport/rdma` that need a device, in virtual machines with Soft-RoCE.
//!
//! Debian's own kernel is booted under qemu's software emulation, with the driver `rdma_rxe` and nothing else that is
//! not needed. Any host can do this, as no module is loaded into its kernel and no virtualisation asked of its
//! processor; how fast RDMA is, it does not tell.

mod archive;
mod kernel;
mod machine;
mod system;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::tools::{output, system_packages};
use crate::{cargo, target_dir};

use machine::{Link, Machine, Network};

/// What a machine boots.
struct Lab {
    kernel: PathBuf,
    archive: PathBuf,
}

/// Both suites, faults with processes that die, and whatever else needs one device.
pub(crate) fn alone() -> Result<()> {
    let Some(lab) = Lab::prepare()? else { return Ok(()) };
    let tests = ["--ignored", "--test-threads=1", "--nocapture", "--skip", "hosts::", "tests::device::"];
    let machine = lab.start("rdma", &tests, Network::Alone)?;
    let console = machine.wait(LIMIT)?;
    ensure!(console.contains(PASSED), "the tests in the virtual machine did not pass: see above");
    Ok(())
}

/// Two hosts: one writes to the other, which then loses its power.
pub(crate) fn hosts() -> Result<()> {
    let Some(lab) = Lab::prepare()? else { return Ok(()) };
    let test = |name| ["--ignored", "--exact", "--nocapture", name];
    let link = Link::new(&target_dir().join("rdma"));
    let answering = lab.start("host 1", &test("tests::device::hosts::answers"), link.first())?;
    let calling = lab.start("host 2", &test("tests::device::hosts::calls"), link.second())?;
    calling.wait_for(CUT, LIMIT)?;
    drop(answering);
    let console = calling.wait(LIMIT)?;
    ensure!(console.contains(PASSED), "the test between two virtual machines did not pass: see above");
    Ok(())
}

impl Lab {
    /// Makes what a machine boots; nothing, with a loud line, where this host cannot have one.
    fn prepare() -> Result<Option<Self>> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return skip("the virtual machine is made for Linux on x86_64");
        }
        if let Err(error) = system_packages(system::FILES, system::PACKAGES) {
            return skip(&format!("qemu, or what else its machine needs, cannot be installed: {error:#}"));
        }
        let Some(kernel) = kernel::prepare()? else {
            return skip(
                "apt has no linux-image-amd64, the kernel that the machine boots: this is not Debian",
            );
        };
        let directory = target_dir().join("rdma");
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let archive = directory.join("initramfs.cpio");
        system::pack(&archive, &kernel, &test_binary(&directory)?)?;
        Ok(Some(Self { kernel: kernel.image, archive }))
    }

    fn start(&self, name: &'static str, tests: &[&str], network: Network) -> Result<Machine> {
        Machine::start(name, self, &tests.join(","), &network)
    }
}

fn skip(reason: &str) -> Result<Option<Lab>> {
    println!("    !!! SKIPPED, RDMA IS NOT TESTED: {reason}");
    Ok(None)
}

/// The tests of the crate, built and rid of what only a debugger reads.
fn test_binary(directory: &Path) -> Result<PathBuf> {
    let mut command = Command::new(cargo());
    command.args([
        "test",
        "--package",
        "mlxcel-transport-rdma",
        "--lib",
        "--no-run",
        "--message-format=json",
    ]);
    let messages = output(&mut command)?;
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    };
    let Some(built) = messages.lines().find_map(executable) else { bail!("cargo named no test binary") };
    let stripped = directory.join("rdma-tests");
    crate::tools::check(Command::new("strip").arg("-o").arg(&stripped).arg(&built))?;
    Ok(stripped)
}

/// What a machine says whose tests have passed.
const PASSED: &str = "guest tests passed";
/// What a host says when the other is to lose its power.
const CUT: &str = "the other's power may be cut";
/// Several times what it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);
