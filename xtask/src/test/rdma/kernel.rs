//! Debian's kernel with its modules, downloaded through apt and unpacked: nothing is installed.
//!
//! Kept from run to run in the user's cache, under the package's name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools::{check, host_python, output};

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// The kernel, as the processor runs it: unpacking it under emulation would take longer than booting it.
    pub(super) image: PathBuf,
    /// Modules, each after those it needs.
    pub(super) modules: Vec<PathBuf>,
}

/// What a machine has drivers for. Checksums are not named by who needs them.
const MODULES: &[&str] =
    &["crc32_generic", "crc32c_generic", "ib_uverbs", "rdma_rxe", "dummy", "virtio_pci", "virtio_net"];

/// Finds the kernel, downloading it where it is not; nothing where apt has none of Debian's.
pub(super) fn prepare() -> Result<Option<Kernel>> {
    let Some(name) = package() else { return Ok(None) };
    let home = cache_dir().context("this user has no home to keep the kernel in")?.join("rdma-vm");
    let directory = home.join(&name);
    let order = directory.join("order");
    if !order.exists() {
        println!("    downloading {name}");
        let unpacked = home.join(format!("{name}.unpacked"));
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        download(&name, &home, &unpacked)?;
        take(&unpacked, &directory)?;
        std::fs::remove_dir_all(&unpacked).ok();
    }
    let listed =
        std::fs::read_to_string(&order).with_context(|| format!("cannot read {}", order.display()))?;
    let modules = listed.lines().map(|module| directory.join(module)).collect();
    Ok(Some(Kernel { image: directory.join("vmlinux"), modules }))
}

/// The package that Debian's newest kernel is in.
fn package() -> Option<String> {
    let depends = || output(Command::new("apt-cache").args(["depends", "linux-image-amd64"])).ok();
    depends().and_then(|text| image_in(&text)).or_else(|| {
        // Without lists of packages apt knows none.
        check(Command::new("apt-get").args(["update", "-qq"])).ok()?;
        image_in(&depends()?)
    })
}

fn image_in(depends: &str) -> Option<String> {
    let lines = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    lines.map(str::trim).find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

fn download(name: &str, home: &Path, unpacked: &Path) -> Result<()> {
    let downloaded = |file: &Path| {
        let file = file.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
    };
    let script = "cd \"$1\" && apt-get download -qq \"$2\"";
    check(Command::new("sh").args(["-c", script, "sh"]).arg(home).arg(name))?;
    let package =
        entries(home)?.into_iter().find(|file| downloaded(file)).context("apt downloaded nothing")?;
    check(Command::new("dpkg-deb").arg("-x").arg(&package).arg(unpacked))?;
    std::fs::remove_file(&package).ok();
    Ok(())
}

/// Takes what is needed out of the package; the list of modules last, so that what is there is whole.
fn take(unpacked: &Path, directory: &Path) -> Result<()> {
    let boot = entries(&unpacked.join("boot"))?;
    let packed = |file: &&PathBuf| file.to_string_lossy().contains("vmlinuz-");
    let packed = boot.iter().find(packed).context("the package has no kernel")?;
    check(Command::new(host_python()).args(["-c", UNPACK]).arg(packed).arg(directory.join("vmlinux")))?;
    let mut files = HashMap::new();
    modules_in(&unpacked.join("lib/modules"), &mut files)?;
    let mut order = Vec::new();
    MODULES.iter().try_for_each(|module| add(module, &files, &mut order))?;
    for module in &order {
        std::fs::copy(&files[module], directory.join(format!("{module}.ko")))?;
    }
    let list: String = order.iter().map(|module| format!("{module}.ko\n")).collect();
    std::fs::write(directory.join("order"), list).context("cannot write the list of modules")
}

/// All modules, by name.
fn modules_in(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in entries(directory)? {
        if entry.is_dir() && !entry.is_symlink() {
            modules_in(&entry, files)?;
        } else if entry.extension().is_some_and(|extension| extension == "ko")
            && let Some(name) = entry.file_stem().and_then(|name| name.to_str())
        {
            files.insert(name.replace('-', "_"), entry.clone());
        }
    }
    Ok(())
}

/// Adds a module behind those it needs.
fn add(module: &str, files: &HashMap<String, PathBuf>, order: &mut Vec<String>) -> Result<()> {
    let module = module.replace('-', "_");
    if order.contains(&module) {
        return Ok(());
    }
    let Some(file) = files.get(&module) else { bail!("the kernel has no module {module}") };
    for needed in needed_by(&std::fs::read(file)?) {
        add(&needed, files, order)?;
    }
    order.push(module);
    Ok(())
}

/// What a module says it needs.
fn needed_by(module: &[u8]) -> Vec<String> {
    const SAYS: &[u8] = b"\0depends=";
    let Some(at) = module.windows(SAYS.len()).position(|bytes| bytes == SAYS) else { return Vec::new() };
    let names = module[at + SAYS.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(names);
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    Ok(paths?)
}

fn cache_dir() -> Option<PathBuf> {
    let named = std::env::var_os("MLXCEL_CACHE_DIR").map(PathBuf::from);
    named.or_else(|| std::env::home_dir().map(|home| home.join(".cache/mlxcel")))
}

/// Finds the kernel in what a boot loader would load: compressed, behind the code that unpacks it.
const UNPACK: &str = r"
import lzma, re, sys
packed = open(sys.argv[1], 'rb').read()
for start in re.finditer(re.escape(b'\xfd7zXZ\0'), packed):
    try:
        kernel = lzma.LZMADecompressor().decompress(packed[start.start():])
    except lzma.LZMAError:
        continue
    if kernel.startswith(b'\x7fELF'):
        open(sys.argv[2], 'wb').write(kernel)
        sys.exit()
sys.exit('no kernel compressed with xz in ' + sys.argv[1])
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_the_one_that_debians_name_stands_for() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Breaks: other\n";
        assert_eq!(image_in(text).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(image_in("linux-image-amd64\n"), None);
    }

    #[test]
    fn a_module_names_what_it_needs() {
        assert_eq!(
            needed_by(b"x\0license=GPL\0depends=ib_core,udp_tunnel\0name=y\0"),
            ["ib_core", "udp_tunnel"]
        );
        assert!(needed_by(b"\0depends=\0").is_empty());
    }
}
