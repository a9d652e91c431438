//! Ctrl-C, Ctrl-Break and the closing of the console.

use tokio::signal::windows;

/// Returns when the process is asked to end.
///
/// # Errors
/// When events cannot be watched.
pub(crate) async fn shutdown_requested() -> std::io::Result<()> {
    let mut interrupt = windows::ctrl_c()?;
    let mut stop = windows::ctrl_break()?;
    let mut close = windows::ctrl_close()?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = stop.recv() => {}
        _ = close.recv() => {}
    }
    Ok(())
}
