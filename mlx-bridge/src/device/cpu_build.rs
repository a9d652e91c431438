//! The CPU build of MLX that a CUDA program can be started with instead of its own.
//!
//! MLX's CUDA build makes even arrays of the CPU through the GPU's driver. Both builds are the same
//! version with the same interface, so a loader told of the CPU build first (`LD_PRELOAD`) never
//! loads the other, nor NVIDIA's libraries. Who starts again, and when, is the program's decision.

use std::path::PathBuf;

/// `libmlx.so` of the CPU build: `../lib/cpu/` beside the program, else where the build found it.
/// `None` where there is none.
pub fn cpu_library() -> Option<PathBuf> {
    let installed = std::env::current_exe().ok().and_then(|program| {
        let prefix = program.parent()?.parent()?;
        Some(prefix.join("lib").join("cpu").join("libmlx.so"))
    });
    let built = option_env!("MLXCEL_CPU_LIBRARY").map(PathBuf::from);
    [installed, built].into_iter().flatten().find(|path| path.is_file())
}
