//! Chooses the MLX to build against: a prefix named by hand, a source tree, or the pinned wheel.

use std::path::{Path, PathBuf};

#[cfg(not(feature = "mlx-source"))]
use crate::target::Backend;
use crate::target::Target;
use crate::wheel;

/// An MLX to compile and link against.
pub(crate) struct Mlx {
    pub(crate) include: PathBuf,
    /// Where the library to link lies (`libmlx.so`, `libmlx.dylib`, `mlx.lib`, `libmlx.a`).
    pub(crate) lib: PathBuf,
    /// Where the library to load lies: `lib`, but for Windows the folder of `mlx.dll`.
    pub(crate) run: PathBuf,
    pub(crate) is_static: bool,
}

pub(crate) fn mlx(target: &Target) -> Result<Mlx, String> {
    println!("cargo::rerun-if-env-changed=MLXCEL_MLX_DIR");
    if let Some(dir) = std::env::var_os("MLXCEL_MLX_DIR").filter(|dir| !dir.is_empty()) {
        return prefix(Path::new(&dir)).map_err(|problem| format!("MLXCEL_MLX_DIR: {problem}"));
    }
    #[cfg(feature = "mlx-source")]
    return crate::source::build(target);
    #[cfg(not(feature = "mlx-source"))]
    {
        name_cpu_library(target)?;
        prefix(&wheel::unpacked(target)?.join("mlx"))
    }
}

/// Tells a CUDA build where the CPU build of the same MLX lies, for hosts without a usable driver.
#[cfg(not(feature = "mlx-source"))]
fn name_cpu_library(target: &Target) -> Result<(), String> {
    if target.backend == Backend::Cuda && target.os == "linux" {
        let cpu = wheel::unpacked(&Target { backend: Backend::Cpu, ..target.clone() })?;
        println!("cargo::rustc-env=MLXCEL_CPU_LIBRARY={}", cpu.join("mlx/lib/libmlx.so").display());
    }
    Ok(())
}

/// An unpacked prefix: `include/mlx/mlx.h` and a library in `lib/`.
fn prefix(dir: &Path) -> Result<Mlx, String> {
    // Link arguments outlive this script's working folder.
    let dir = &std::path::absolute(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let include = dir.join("include");
    check_version(&include.join("mlx").join("version.h"))?;
    let windows_run = dir.join("mlx.dll").is_file().then(|| dir.to_path_buf());
    let lib = dir.join("lib");
    Ok(Mlx { include, run: windows_run.unwrap_or_else(|| lib.clone()), lib, is_static: false })
}

/// Refuses an MLX of another version, whose interface differs.
pub(crate) fn check_version(header: &Path) -> Result<(), String> {
    // Should the folder vanish, the next build must find MLX anew.
    println!("cargo::rerun-if-changed={}", header.display());
    let text =
        std::fs::read_to_string(header).map_err(|e| format!("MLX must hold {}: {e}", header.display()))?;
    let found = header_version(&text);
    let wanted = wheel::Lock::read()?.version;
    if found.as_deref() != Some(wanted.as_str()) {
        let found = found.unwrap_or_else(|| "none".into());
        return Err(format!("MLX must be {wanted}, {} says {found}", header.display()));
    }
    Ok(())
}

/// `0.32.4` from the `#define`s of `mlx/version.h`.
fn header_version(text: &str) -> Option<String> {
    let part = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("#define MLX_VERSION_{name} ")))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    };
    Some(format!("{}.{}.{}", part("MAJOR")?, part("MINOR")?, part("PATCH")?))
}
