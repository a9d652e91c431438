//! What a machine has beside its kernel: a shell, two tools, the tests, and the libraries of this host that they need.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use super::kernel::Kernel;
use crate::root;
use crate::tools::output;

/// What must be there, and the packages it is in.
pub(super) const FILES: &[&str] =
    &["/usr/bin/qemu-system-x86_64", "/bin/busybox", "/usr/bin/dpkg-deb", IP, RDMA, DRIVER, VERBS];
pub(super) const PACKAGES: &[&str] =
    &["qemu-system-x86", "busybox-static", "dpkg", "iproute2", "ibverbs-providers", "libibverbs1"];

const IP: &str = "/usr/sbin/ip";
const RDMA: &str = "/usr/bin/rdma";
/// Says that the library below has a driver for Soft-RoCE.
const DRIVER: &str = "/etc/libibverbs.d/rxe.driver";
const VERBS: &str = "/usr/lib/x86_64-linux-gnu/libibverbs.so.1";
const PROVIDERS: &str = "/usr/lib/x86_64-linux-gnu/libibverbs";
/// Programs of the shell that the first process uses.
const APPLETS: &[&str] =
    &["sh", "mount", "mkdir", "insmod", "sleep", "cut", "tr", "echo", "dmesg", "grep", "poweroff", "true"];

/// Packs everything into the archive that a machine starts from.
pub(super) fn pack(into: &Path, kernel: &Kernel, tests: &Path) -> Result<()> {
    let file = File::create(into).with_context(|| format!("cannot write {}", into.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    ["/proc", "/sys", "/dev", "/tmp"].into_iter().try_for_each(|path| archive.directory(path))?;
    archive.file("/init", &read(&root().join("xtask/rdma/init.sh"))?)?;
    archive.file("/bin/busybox", &read(Path::new("/bin/busybox"))?)?;
    APPLETS.iter().try_for_each(|applet| archive.link(&format!("/bin/{applet}"), "busybox"))?;
    let mut order = String::new();
    for module in &kernel.modules {
        let name = module.file_name().and_then(|name| name.to_str()).context("a module has a name")?;
        archive.file(&format!("/modules/{name}"), &read(module)?)?;
        order.push_str(&format!("{name}\n"));
    }
    archive.file("/modules/order", order.as_bytes())?;
    let provider = provider()?;
    archive.file(DRIVER, &read(Path::new(DRIVER))?)?;
    let programs = [("/bin/rdma-tests", tests), ("/bin/ip", Path::new(IP)), ("/bin/rdma", Path::new(RDMA))];
    for (path, program) in programs {
        archive.file(path, &read(program)?)?;
    }
    let mut libraries = BTreeSet::from([PathBuf::from(VERBS), provider]);
    let loaded: Vec<PathBuf> =
        programs.iter().map(|(_, program)| program.to_path_buf()).chain(libraries.clone()).collect();
    for file in loaded {
        libraries.extend(libraries_of(&file)?);
    }
    for library in libraries {
        archive.file(&library.to_string_lossy(), &read(&library)?)?;
    }
    archive.finish().with_context(|| format!("cannot write {}", into.display()))
}

/// The part of libibverbs that speaks with Soft-RoCE: its name has the version of their interface.
fn provider() -> Result<PathBuf> {
    let entries = std::fs::read_dir(PROVIDERS).with_context(|| format!("cannot read {PROVIDERS}"))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_wanted =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("librxe-"));
    paths.find(is_wanted).context("libibverbs has no part for Soft-RoCE")
}

/// The libraries that a program or library is linked with, where this host has them.
fn libraries_of(file: &Path) -> Result<Vec<PathBuf>> {
    let listed = output(Command::new("ldd").arg(file))?;
    let words = listed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
