//! What a download tells whoever waits for it.
//!
//! Events only; a caller that shows nothing passes `&()`. [`TerminalProgress`] draws bars, and
//! hides them by itself where standard error is no terminal.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Something that happened to one file. `file` is its name in the repository or package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A file is being fetched; `done_bytes` of `total_bytes` were kept from an earlier try.
    Started {
        /// File name.
        file: &'a str,
        /// Bytes already on disk.
        done_bytes: u64,
        /// Size of the whole file, where known.
        total_bytes: Option<u64>,
    },
    /// `done_bytes` of the file are on disk now.
    Advanced {
        /// File name.
        file: &'a str,
        /// Bytes on disk, counted from the start of the file.
        done_bytes: u64,
    },
    /// The server or the network asked for a pause before the next attempt.
    Retrying {
        /// File name, or the repository where no file is concerned.
        file: &'a str,
        /// How long.
        wait: Duration,
        /// Why, in a few words.
        reason: &'a str,
    },
    /// Another process is fetching the same thing.
    WaitingForLock {
        /// File name.
        file: &'a str,
    },
    /// The file is complete, verified and visible.
    Finished {
        /// File name.
        file: &'a str,
    },
}

/// A receiver of download events; called from several tasks.
pub trait Progress: Send + Sync {
    /// Takes one event; must not block.
    fn event(&self, event: Event<'_>);
}

impl Progress for () {
    fn event(&self, _: Event<'_>) {}
}

/// Progress bars on standard error, one a file.
#[derive(Debug, Default)]
pub struct TerminalProgress {
    bars: MultiProgress,
    by_file: Mutex<HashMap<String, ProgressBar>>,
}

impl TerminalProgress {
    /// Bars on standard error; nothing is drawn where it is not a terminal.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with_bar(&self, file: &str, act: impl FnOnce(&ProgressBar)) {
        // A poisoned map still holds only bars, each of which is valid by itself.
        let mut map = self.by_file.lock().unwrap_or_else(|e| e.into_inner());
        let bar = map.entry(file.to_owned()).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::no_length());
            bar.set_prefix(file.to_owned());
            bar.set_style(bar_style());
            bar
        });
        act(bar);
    }
}

impl Progress for TerminalProgress {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { file, done_bytes, total_bytes } => self.with_bar(file, |bar| {
                if let Some(total) = total_bytes {
                    bar.set_length(total);
                }
                bar.set_position(done_bytes);
                // The rate must not count what was on disk already.
                bar.reset_eta();
                bar.set_message("");
            }),
            Event::Advanced { file, done_bytes } => self.with_bar(file, |bar| {
                bar.set_message("");
                bar.set_position(done_bytes);
            }),
            Event::Retrying { file, wait, reason } => self.with_bar(file, |bar| {
                bar.set_message(format!("{reason}, again in {} s", wait.as_secs()));
            }),
            Event::WaitingForLock { file } => self.with_bar(file, |bar| {
                bar.set_message("another process is fetching it");
            }),
            Event::Finished { file } => self.with_bar(file, ProgressBar::finish),
        }
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{prefix:>32!} {bytes:>11}/{total_bytes:<11} [{bar:24}] {binary_bytes_per_sec:>12} {msg}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}
