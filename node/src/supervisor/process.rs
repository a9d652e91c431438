//! One worker process: its start, its frames, its end.
//!
//! Mechanism only: `slot` decides when to start one and what its events mean. Standard error goes
//! to the log, line by line.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mlxcel_protocol::v1::{WorkerCommand, WorkerEvent};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use crate::frames::{self, FrameError};
use crate::sys;

/// What to run as the worker of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerProgram {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// What a process says or does.
pub(crate) enum Output {
    Event(WorkerEvent),
    /// It has ended: how, for people. Nothing follows.
    Gone(String),
}

pub(crate) struct Process {
    child: Child,
    commands: mpsc::UnboundedSender<WorkerCommand>,
    events: mpsc::Receiver<Result<WorkerEvent, FrameError>>,
    events_ended: bool,
    exit: Option<io::Result<ExitStatus>>,
    /// When to stop waiting for whichever of exit and end of events is missing.
    patience: Option<Instant>,
    /// Why we killed it.
    fault: Option<String>,
    last_line: Arc<Mutex<String>>,
    log: Option<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn spawn(program: &WorkerProgram, device_index: u32) -> io::Result<Self> {
        let mut command = Command::new(&program.program);
        command
            .args(&program.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        sys::detach_from_terminal(&mut command);
        let mut child = command.spawn()?;

        let (commands, outgoing) = mpsc::unbounded_channel();
        let (incoming, events) = mpsc::channel(EVENTS_AHEAD);
        let last_line = Arc::default();
        if let Some(stdin) = child.stdin.take() {
            tokio::spawn(write_commands(stdin, outgoing));
        }
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(read_events(stdout, incoming));
        }
        let stderr = child.stderr.take();
        let log = stderr.map(|it| tokio::spawn(log_lines(it, device_index, Arc::clone(&last_line))));
        Ok(Self {
            child,
            commands,
            events,
            events_ended: false,
            exit: None,
            patience: None,
            fault: None,
            last_line,
            log,
        })
    }

    /// The operating system's number; 0 once it has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Commands to a process that has ended are dropped; `next` reports its end.
    pub(crate) fn send(&self, command: WorkerCommand) {
        let _ = self.commands.send(command);
    }

    pub(crate) fn kill(&mut self, why: String) {
        self.fault.get_or_insert(why);
        // Fails only when it has already ended.
        let _ = self.child.start_kill();
    }

    /// The next event, or the end once everything written before it has been read. Cancel safe.
    pub(crate) async fn next(&mut self) -> Output {
        loop {
            if self.events_ended && self.exit.is_some() {
                if let Some(log) = &mut self.log {
                    // Its last line often says why.
                    let _ = timeout(LAST_WORDS, log).await;
                }
                self.log = None;
                return Output::Gone(self.obituary());
            }
            let patience = self.patience.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                event = self.events.recv(), if !self.events_ended => match event {
                    Some(Ok(event)) => return Output::Event(event),
                    Some(Err(error)) => {
                        self.events_ended = true;
                        self.kill(format!("sent no valid event: {error}"));
                    }
                    None => {
                        self.events_ended = true;
                        self.patience = Some(Instant::now() + LAST_WORDS);
                    }
                },
                status = self.child.wait(), if self.exit.is_none() => {
                    self.exit = Some(status);
                    self.patience = Some(Instant::now() + LAST_WORDS);
                }
                () = sleep_until(patience), if self.patience.is_some() => {
                    self.patience = None;
                    // A grandchild may hold the pipe open; a worker without one is of no use.
                    match self.exit {
                        Some(_) => self.events_ended = true,
                        None => self.kill("closed its output".into()),
                    }
                }
            }
        }
    }

    /// Lets the process end by itself, then kills it.
    pub(crate) async fn stop(mut self) {
        let (closed, _) = mpsc::unbounded_channel();
        // The end of its input tells the worker to end.
        drop(std::mem::replace(&mut self.commands, closed));
        self.events.close();
        if timeout(STOP_PATIENCE, self.child.wait()).await.is_err() {
            // Waits as well, so that no zombie stays.
            let _ = self.child.kill().await;
        }
    }

    fn obituary(&self) -> String {
        let how = match (&self.fault, &self.exit) {
            (Some(fault), _) => fault.clone(),
            (None, Some(Ok(status))) => sys::describe_exit(*status),
            (None, Some(Err(error))) => format!("cannot be waited for: {error}"),
            (None, None) => "ended".into(),
        };
        let by_itself = matches!(&self.exit, Some(Ok(status)) if status.code().is_some());
        let last_line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if by_itself && self.fault.is_none() && !last_line.is_empty() {
            return format!("worker {how}: {last_line}");
        }
        format!("worker {how}")
    }
}

async fn write_commands(mut stdin: ChildStdin, mut commands: mpsc::UnboundedReceiver<WorkerCommand>) {
    while let Some(command) = commands.recv().await {
        let written = match frames::encode(&command) {
            Ok(frame) => stdin.write_all(&frame).await,
            Err(error) => {
                warn!(%error, "a command cannot be sent to the worker");
                continue;
            }
        };
        if written.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}

async fn read_events(stdout: ChildStdout, events: mpsc::Sender<Result<WorkerEvent, FrameError>>) {
    let mut stdout = BufReader::new(stdout);
    while let Some(event) = frames::read_async(&mut stdout).await.transpose() {
        let last = event.is_err();
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

async fn log_lines(stderr: ChildStderr, device: u32, last_line: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if line.is_empty() {
            continue;
        }
        info!(target: "mlxcel::worker", device, "{line}");
        let mut last = last_line.lock().unwrap_or_else(PoisonError::into_inner);
        last.clear();
        last.extend(line.chars().take(LAST_LINE_CHARS));
    }
}

/// Events read from a process before someone takes them.
const EVENTS_AHEAD: usize = 256;
const LAST_WORDS: Duration = Duration::from_millis(200);
const STOP_PATIENCE: Duration = Duration::from_secs(3);
const LAST_LINE_CHARS: usize = 500;
