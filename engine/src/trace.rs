//! A file of timed spans in Chrome's trace event format, for Perfetto or `chrome://tracing`.
//!
//! Writes what it is given; knows neither steps nor engines, and takes no time itself. The format is
//! the JSON array of the "Trace Event Format" document: complete (`X`), counter (`C`) and metadata
//! (`M`) events; a reader accepts it without its closing bracket, so a killed process leaves a file of use.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A trace being written. Shared by the engines of a process; complete once closed or dropped.
pub struct Trace {
    /// Time zero of the file.
    origin: Instant,
    tracks: AtomicU32,
    /// `None` once closed, or after a write has failed.
    output: Mutex<Option<BufWriter<File>>>,
}

/// A row of the trace, such as one thread's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Track(u32);

/// Named numbers of an event.
pub(crate) type Figures = Vec<(&'static str, u64)>;

/// Something timed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimedSpan {
    /// What was done.
    pub(crate) name: &'static str,
    /// When it began.
    pub(crate) begin: Instant,
    /// When it was done.
    pub(crate) end: Instant,
    /// What it was done to.
    pub(crate) figures: Figures,
}

impl Trace {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let mut output = BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?);
        write!(output, "[{}", metadata("process_name", 0, "mlxcel"))?;
        output.flush()?;
        Ok(Self { origin: Instant::now(), tracks: AtomicU32::new(0), output: Mutex::new(Some(output)) })
    }

    /// Ends the array and writes everything out; later events are dropped.
    pub fn close(&self) {
        if let Some(mut output) = self.lock().take() {
            report(output.write_all(b"\n]\n").and_then(|()| output.flush()));
        }
    }

    /// Writes out what is buffered.
    pub(crate) fn flush(&self) {
        self.write(|output| output.flush());
    }

    /// A new row called `name`.
    pub(crate) fn track(&self, name: &str) -> Track {
        let track = self.tracks.fetch_add(1, Ordering::Relaxed) + 1;
        self.write(|output| write!(output, ",{}", metadata("thread_name", track, name)));
        Track(track)
    }

    /// Adds spans to a row.
    pub(crate) fn spans(&self, track: Track, spans: &[TimedSpan]) {
        let mut text = String::new();
        for span in spans {
            let (begin, took) = (self.micros(span.begin), span.end.saturating_duration_since(span.begin));
            let (name, took) = (span.name, took.as_nanos() as f64 / 1e3);
            let head = head('X', name, track.0);
            // Writing to a string does not fail.
            let _ = write!(text, ",{head},\"ts\":{begin:.3},\"dur\":{took:.3},{}}}", args(&span.figures));
        }
        self.write(|output| output.write_all(text.as_bytes()));
    }

    /// Adds a point to the graph of `figures`, one line each.
    pub(crate) fn counters(&self, track: Track, at: Instant, figures: &Figures) {
        let (head, at) = (head('C', "load", track.0), self.micros(at));
        self.write(|output| write!(output, ",{head},\"ts\":{at:.3},{}}}", args(figures)));
    }

    fn micros(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.origin).as_nanos() as f64 / 1e3
    }

    fn write(&self, action: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) {
        let mut output = self.lock();
        if let Some(open) = output.as_mut()
            && !report(action(open))
        {
            output.take();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<BufWriter<File>>> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").finish_non_exhaustive()
    }
}

/// A trace is never a reason to fail a request: what went wrong is logged, once.
fn report(result: std::io::Result<()>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!("the trace cannot be written and ends here: {error}");
            false
        }
    }
}

/// An event without its end.
fn head(kind: char, name: &str, track: u32) -> String {
    let process = std::process::id();
    format!("\n{{\"ph\":\"{kind}\",\"name\":\"{name}\",\"pid\":{process},\"tid\":{track}")
}

fn metadata(what: &str, track: u32, name: &str) -> String {
    let name = serde_json::Value::from(name);
    format!("{},\"args\":{{\"name\":{name}}}}}", head('M', what, track))
}

fn args(figures: &Figures) -> String {
    let figures: Vec<String> = figures.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("\"args\":{{{}}}", figures.join(","))
}

const BUFFER_BYTES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;

    fn span(name: &'static str, begin: Instant) -> TimedSpan {
        TimedSpan { name, begin, end: begin + Duration::from_micros(250), figures: vec![("tokens", 3)] }
    }

    #[test]
    fn a_closed_trace_is_an_array_of_events_with_micros_and_figures() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("trace.json");
        let trace = Trace::create(&path).expect("the file");
        let track = trace.track("steps of \"m\"");
        let begin = trace.origin + Duration::from_millis(2);
        trace.spans(track, &[span("plan", begin)]);
        trace.counters(track, begin, &vec![("running", 4)]);
        trace.close();
        trace.spans(track, &[span("late", begin)]);
        let text = std::fs::read_to_string(&path).expect("it is there");
        let events: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(events.len(), 4);
        assert_eq!(events[1]["args"]["name"], "steps of \"m\"");
        assert_eq!((&events[2]["ts"], &events[2]["dur"]), (&2000.0.into(), &250.0.into()));
        assert_eq!((&events[2]["args"]["tokens"], &events[3]["args"]["running"]), (&3.into(), &4.into()));
    }

    #[test]
    fn a_file_that_cannot_be_created_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Trace::create(&dir.path().join("missing/trace.json")).is_err());
    }
}
