//! Fetches the pinned MLX wheel of a target, checks it and unpacks it into a shared cache.
//!
//! Cross-builds fetch the wheel of the target, not of the host. Builds at the same time
//! share one cache: a lock file lets one fetch while the others wait, and an entry appears
//! by a rename, so what is there is whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::driver;
use crate::target::{Backend, Target, cargo_env};

/// `mlx.lock.toml`.
pub(crate) struct Lock {
    pub(crate) version: String,
    wheels: Vec<Wheel>,
}

struct Wheel {
    package: String,
    platform: String,
    file: String,
    sha256: String,
}

impl Lock {
    pub(crate) fn read() -> Result<Self, String> {
        let path = Path::new(&cargo_env("CARGO_MANIFEST_DIR")?).join("mlx.lock.toml");
        let bad = |what: &str| format!("{} must hold {what}", path.display());
        let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let table: toml::Table = text.parse().map_err(|e| format!("{}: {e}", path.display()))?;
        let text_of = |table: &toml::Table, key: &str| {
            table
                .get(key)
                .and_then(|v| v.as_str())
                .map(str::to_owned)
                .ok_or_else(|| bad(&format!("a string `{key}`")))
        };
        let entries =
            table.get("wheel").and_then(|v| v.as_array()).ok_or_else(|| bad("`[[wheel]]` entries"))?;
        let wheel = |entry: &toml::Value| {
            let entry = entry.as_table().ok_or_else(|| bad("`[[wheel]]` tables"))?;
            Ok(Wheel {
                package: text_of(entry, "package")?,
                platform: text_of(entry, "platform")?,
                file: text_of(entry, "file")?,
                sha256: text_of(entry, "sha256")?,
            })
        };
        let wheels = entries.iter().map(wheel).collect::<Result<_, String>>()?;
        Ok(Self { version: text_of(&table, "version")?, wheels })
    }

    fn wheel_for(&self, target: &Target) -> Result<&Wheel, String> {
        let package = target.package();
        let fits = |wheel: &&Wheel| wheel.package == package && platform_fits(&wheel.platform, target);
        // Of several macOS wheels the newest that the deployment target allows.
        let fitting = self.wheels.iter().filter(fits).max_by_key(|wheel| macos_major(&wheel.platform));
        fitting.ok_or_else(|| {
            format!(
                "no {package} wheel is pinned for {} {}; set MLXCEL_MLX_DIR to an MLX {} prefix, or build with feature `mlx-source`",
                target.os, target.arch, self.version
            )
        })
    }
}

/// The folder of the unpacked wheel of `target`; it holds `mlx/include`, `mlx/lib`.
#[cfg_attr(feature = "mlx-source", allow(dead_code, reason = "a source build takes no wheel"))]
pub(crate) fn unpacked(target: &Target) -> Result<PathBuf, String> {
    let lock = Lock::read()?;
    let wheel = lock.wheel_for(target)?;
    let cache = cache_dir()?.join("mlx");
    let edited = target.backend == Backend::Cuda && target.os == "linux";
    let suffix = if edited { "-driver-optional" } else { "" };
    let name = format!("{}-{}{suffix}", wheel.file.trim_end_matches(".whl"), &wheel.sha256[..12]);
    let entry = cache.join(&name);
    if entry.is_dir() {
        return Ok(entry);
    }
    let failed =
        |what: &str, path: &Path, e: std::io::Error| format!("cannot {what} {}: {e}", path.display());
    fs::create_dir_all(&cache).map_err(|e| failed("create", &cache, e))?;
    let lock_path = cache.join(format!("{name}.lock"));
    let guard = File::create(&lock_path).map_err(|e| failed("create", &lock_path, e))?;
    guard.lock().map_err(|e| failed("lock", &lock_path, e))?;
    if entry.is_dir() {
        return Ok(entry);
    }
    let partial = cache.join(format!("{name}.partial-{}", std::process::id()));
    let fetched = fetch(&lock, wheel, &partial).and_then(|tree| {
        if edited {
            driver::make_optional(&tree.join("mlx/lib/libmlx.so"))?;
        }
        Ok(tree)
    });
    let done = fetched.and_then(|tree| fs::rename(&tree, &entry).map_err(|e| failed("create", &entry, e)));
    // Left-overs of a failed fetch only cost space: the next one makes its own folder.
    let _ = fs::remove_dir_all(&partial);
    done.map(|()| entry)
}

/// Downloads into `dir`, checks, and unpacks into the folder it returns.
fn fetch(lock: &Lock, wheel: &Wheel, dir: &Path) -> Result<PathBuf, String> {
    let python = python()?;
    let requirement = format!("{}=={}", wheel.package, lock.version);
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
    ]);
    pip.arg("--platform").arg(&wheel.platform).arg("--dest").arg(dir).arg(&requirement);
    run(pip, &format!("download {requirement} for {}", wheel.platform))?;

    let file = dir.join(&wheel.file);
    let bytes = fs::read(&file).map_err(|e| format!("pip must have written {}: {e}", file.display()))?;
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found != wheel.sha256 {
        return Err(format!(
            "sha256 of {} must be {} (mlx.lock.toml), got {found}: the download was corrupted or tampered with",
            wheel.file, wheel.sha256
        ));
    }
    let tree = dir.join("unpacked");
    let mut unzip = Command::new(&python);
    unzip.args(["-m", "zipfile", "-e"]).arg(&file).arg(&tree);
    run(unzip, &format!("unpack {}", wheel.file))?;
    Ok(tree)
}

fn python() -> Result<String, String> {
    let works =
        |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    ["python3", "python"].iter().find(works).map(|name| (*name).to_owned()).ok_or_else(|| {
        "fetching MLX needs python3 with pip on PATH; install it, or set MLXCEL_MLX_DIR to an unpacked MLX prefix".into()
    })
}

fn run(mut command: Command, what: &str) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("cannot {what}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "cannot {what} ({}): {}; where there is no network, set MLXCEL_MLX_DIR to an unpacked MLX prefix",
        output.status,
        text.trim()
    ))
}

fn platform_fits(platform: &str, target: &Target) -> bool {
    match (target.os.as_str(), target.arch.as_str()) {
        ("linux", arch) => platform.starts_with("manylinux") && platform.ends_with(arch),
        ("windows", "x86_64") => platform == "win_amd64",
        ("macos", "aarch64") => macos_major(platform).is_some_and(|major| major <= deployment_major()),
        _ => false,
    }
}

/// 14 of `macosx_14_0_arm64`.
fn macos_major(platform: &str) -> Option<u32> {
    platform.strip_prefix("macosx_")?.split('_').next()?.parse().ok()
}

/// The oldest macOS the program must run on; MLX itself needs 14.
fn deployment_major() -> u32 {
    println!("cargo::rerun-if-env-changed=MACOSX_DEPLOYMENT_TARGET");
    let wanted = std::env::var("MACOSX_DEPLOYMENT_TARGET").ok();
    wanted.and_then(|v| v.split('.').next()?.parse().ok()).unwrap_or(0).max(14)
}

fn cache_dir() -> Result<PathBuf, String> {
    println!("cargo::rerun-if-env-changed=MLXCEL_CACHE_DIR");
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = var("MLXCEL_CACHE_DIR") {
        return Ok(dir);
    }
    let dir = if cfg!(windows) {
        var("LOCALAPPDATA").map(|dir| dir.join("mlxcel"))
    } else if cfg!(target_os = "macos") {
        var("HOME").map(|dir| dir.join("Library/Caches/mlxcel"))
    } else {
        var("XDG_CACHE_HOME")
            .or_else(|| var("HOME").map(|dir| dir.join(".cache")))
            .map(|dir| dir.join("mlxcel"))
    };
    dir.ok_or_else(|| "no cache folder: set MLXCEL_CACHE_DIR".into())
}
