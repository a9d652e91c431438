//! Says how to link MLX, to this crate and, through `DEP_MLX_LINK_ARGS`, to those that use it.
//!
//! `rustc-link-arg` reaches no dependent crate, so a crate with binaries or tests that link
//! MLX repeats the arguments from its own build script (see the crate's documentation).

use std::fs;
use std::path::Path;

use crate::locate::Mlx;
use crate::target::{Target, cargo_env};

pub(crate) fn emit(mlx: &Mlx, target: &Target) -> Result<(), String> {
    println!("cargo::rustc-link-search=native={}", mlx.lib.display());
    println!("cargo::metadata=lib_dir={}", mlx.lib.display());
    println!("cargo::metadata=run_dir={}", mlx.run.display());
    let args = if mlx.is_static { Vec::new() } else { arguments(mlx, target) };
    for arg in &args {
        println!("cargo::rustc-link-arg={arg}");
    }
    println!("cargo::metadata=link_args={}", args.join(";"));
    if mlx.is_static {
        return Ok(());
    }
    println!("cargo::rustc-link-lib=dylib=mlx");
    if target.os == "windows" { place_dlls(&mlx.run) } else { Ok(()) }
}

fn arguments(mlx: &Mlx, target: &Target) -> Vec<String> {
    let rpath = |dir: &str| format!("-Wl,-rpath,{dir}");
    let here = mlx.run.display().to_string();
    match target.os.as_str() {
        "windows" => Vec::new(),
        "macos" => vec![rpath(&here), rpath("@executable_path/../lib"), rpath("@loader_path")],
        // The CUDA build of MLX names NVIDIA's libraries, which the building host need not have.
        // An rpath of the old kind is searched for what libmlx itself needs as well, so that an
        // installed prefix can hold all of it in lib/.
        _ => vec![
            "-Wl,--disable-new-dtags".into(),
            rpath(&here),
            rpath("$ORIGIN/../lib"),
            rpath("$ORIGIN"),
            "-Wl,--allow-shlib-undefined".into(),
        ],
    }
}

/// Windows has no rpath: the DLLs are put beside the binaries and tests of this profile.
fn place_dlls(run: &Path) -> Result<(), String> {
    let out = cargo_env("OUT_DIR")?;
    // OUT_DIR is <profile>/build/<package>-<hash>/out.
    let Some(profile) = Path::new(&out).ancestors().nth(3) else {
        return Err(format!("OUT_DIR must lie in a cargo profile folder, got {out}"));
    };
    for name in ["mlx.dll", "libopenblas.dll"] {
        let from = run.join(name);
        for dir in [profile.to_path_buf(), profile.join("deps")] {
            let to = dir.join(name);
            if !from.is_file()
                || to.is_file()
                    && fs::metadata(&to).ok().map(|m| m.len()) == fs::metadata(&from).ok().map(|m| m.len())
            {
                continue;
            }
            fs::create_dir_all(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
            fs::copy(&from, &to)
                .map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))?;
        }
    }
    Ok(())
}
