//! Starting again with the CPU build of MLX, where `--device cpu` was asked of a GPU build on a host whose
//! driver does not work.
//!
//! `mlx-bridge` knows where that build lies; the engine knows whether it is needed.

use std::os::unix::process::CommandExt;
use std::process::Command;

use mlxcel_engine::{DeviceChoice, library_for_cpu};

use crate::args;

/// Replaces this process by one on the CPU build where `command` needs that; returns where it does not.
///
/// # Errors
/// When the process cannot be replaced.
pub(crate) fn start_again_if_needed(command: &args::Command) -> std::io::Result<()> {
    let wants_cpu =
        command.device().is_some_and(|device| args::parse_device(device) == Ok(DeviceChoice::Cpu));
    if !wants_cpu || std::env::var_os(STARTED_AGAIN).is_some() {
        return Ok(());
    }
    let Some(library) = library_for_cpu() else { return Ok(()) };
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).env(STARTED_AGAIN, "1").env("LD_PRELOAD", &library);
    if let Some(folder) = library.parent() {
        // What the library needs may lie beside it.
        let folders = std::iter::once(folder.to_owned()).chain(
            std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths).collect::<Vec<_>>(),
        );
        if let Ok(path) = std::env::join_paths(folders) {
            again.env("LD_LIBRARY_PATH", path);
        }
    }
    Err(again.exec())
}

/// Set in the process that was started again, so that it does not do so for ever.
const STARTED_AGAIN: &str = "MLXCEL_ON_CPU_BUILD";
