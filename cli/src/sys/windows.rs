//! Ctrl-C, Ctrl-Break and the closing of the console.

use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

/// Wishes that the process end. None is lost from the moment this exists.
pub(crate) struct Shutdown {
    interrupt: CtrlC,
    stop: CtrlBreak,
    close: CtrlClose,
}

impl Shutdown {
    /// Watches for them, instead of dying of the first.
    ///
    /// # Errors
    /// When events cannot be watched.
    pub(crate) fn watch() -> std::io::Result<Self> {
        Ok(Self { interrupt: ctrl_c()?, stop: ctrl_break()?, close: ctrl_close()? })
    }

    /// Returns at the next wish.
    pub(crate) async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.stop.recv() => {}
            _ = self.close.recv() => {}
        }
    }
}
