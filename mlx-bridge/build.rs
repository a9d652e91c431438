//! Finds MLX, compiles the C++ side of the bridge against it, and says how to link.
//!
//! Knows nothing of what the bridge does. Which MLX is used is decided by
//! `MLXCEL_MLX_DIR`, the feature `mlx-source`, and else `mlx.lock.toml`.

#[path = "build/driver.rs"]
mod driver;
#[path = "build/link.rs"]
mod link;
#[path = "build/locate.rs"]
mod locate;
#[cfg(feature = "mlx-source")]
#[path = "build/source.rs"]
mod source;
#[path = "build/target.rs"]
mod target;
#[path = "build/wheel.rs"]
mod wheel;

use locate::Mlx;
use target::{Backend, Target};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=mlx.lock.toml");
    println!("cargo::rerun-if-changed=src/ffi.rs");
    println!("cargo::rerun-if-changed=cpp");
    if let Err(message) = build() {
        println!("cargo::error={}", message.replace('\n', " "));
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let target = Target::from_env()?;
    let mlx = locate::mlx(&target)?;
    compile(&mlx, &target);
    link::emit(&mlx, &target)
}

fn compile(mlx: &Mlx, target: &Target) {
    let mut build = cxx_build::bridge("src/ffi.rs");
    build.std("c++20").include("cpp").files(SOURCES.map(|name| format!("cpp/{name}.cpp")));
    // MLX's own headers are not ours to warn about.
    if target.msvc {
        build.include(&mlx.include);
        build.flag("/Zc:__cplusplus").flag("/utf-8").define("NOMINMAX", None);
        build.define("_USE_MATH_DEFINES", None);
    } else {
        build.flag("-isystem").flag(&mlx.include);
    }
    if target.backend == Backend::Cpu {
        build.define("MLXCEL_CPU_BACKEND", None);
    }
    if target.backend == Backend::Cuda {
        build.define("MLXCEL_CUDA_BACKEND", None);
    }
    if mlx.is_static {
        build.define("MLX_STATIC", None);
    }
    build.compile("mlxcel_mlx_bridge");
}

const SOURCES: [&str; 9] =
    ["array", "cuda_kernel", "device", "distributed", "fast", "host_op", "linear", "ops", "random"];
