//! Builds MLX from the source tree named by `MLXCEL_MLX_SOURCE` with CMake, as a static library.
//!
//! `MLXCEL_MLX_CMAKE_ARGS` holds further arguments for CMake, separated by blanks: a host without a way
//! to GitHub names MLX's own dependencies there (`-DFETCHCONTENT_SOURCE_DIR_JSON=...`).

use std::path::PathBuf;

use crate::locate::Mlx;
use crate::target::{Backend, Target};

pub(crate) fn build(target: &Target) -> Result<Mlx, String> {
    println!("cargo::rerun-if-env-changed=MLXCEL_MLX_SOURCE");
    let source = std::env::var_os("MLXCEL_MLX_SOURCE")
        .map(PathBuf::from)
        .filter(|dir| dir.join("CMakeLists.txt").is_file());
    let source = source.ok_or(
        "feature `mlx-source` needs MLXCEL_MLX_SOURCE to name an MLX source tree (with CMakeLists.txt)",
    )?;
    crate::locate::check_version(&source.join("mlx").join("version.h"))
        .map_err(|problem| format!("MLXCEL_MLX_SOURCE: {problem}"))?;
    let on = |yes: bool| if yes { "ON" } else { "OFF" };
    let mut config = cmake::Config::new(&source);
    config.profile("Release").define("BUILD_SHARED_LIBS", "OFF");
    for part in ["TESTS", "EXAMPLES", "BENCHMARKS", "PYTHON_BINDINGS", "GGUF"] {
        config.define(format!("MLX_BUILD_{part}"), "OFF");
    }
    config.define("MLX_BUILD_METAL", on(target.backend == Backend::Metal));
    config.define("MLX_BUILD_CUDA", on(target.backend == Backend::Cuda));
    println!("cargo::rerun-if-env-changed=MLXCEL_MLX_CMAKE_ARGS");
    for argument in std::env::var("MLXCEL_MLX_CMAKE_ARGS").unwrap_or_default().split_whitespace() {
        config.configure_arg(argument);
    }
    let prefix = config.build();
    let lib = ["lib", "lib64"].map(|name| prefix.join(name)).into_iter().find(|dir| dir.is_dir());
    let lib =
        lib.ok_or_else(|| format!("MLX's install must hold lib/ or lib64/ under {}", prefix.display()))?;
    link(target);
    // MLX builds its Thunderbolt transport as a library of its own where the SDK has one.
    if lib.join("libjaccl.a").is_file() {
        println!("cargo::rustc-link-lib=static=jaccl");
    }
    Ok(Mlx { include: prefix.join("include"), run: lib.clone(), lib, is_static: true })
}

/// What the static library itself needs.
fn link(target: &Target) {
    println!("cargo::rustc-link-lib=static=mlx");
    let libraries: &[&str] = match (target.os.as_str(), target.backend) {
        ("macos", _) => &[
            "framework=Accelerate",
            "framework=Foundation",
            "framework=Metal",
            "framework=QuartzCore",
            "dylib=c++",
        ],
        (_, Backend::Cuda) => &[
            "dylib=lapack",
            "dylib=blas",
            "dylib=cublasLt",
            "dylib=cufft",
            "dylib=cusolver",
            "dylib=cudnn",
            "dylib=nccl",
            "dylib=nvrtc",
            "dylib=cudart",
            "dylib=cuda",
            "dylib=stdc++",
        ],
        ("windows", _) => &["dylib=libopenblas"],
        _ => &["dylib=lapack", "dylib=blas", "dylib=stdc++"],
    };
    for library in libraries {
        println!("cargo::rustc-link-lib={library}");
    }
}
