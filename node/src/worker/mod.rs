//! One device's worker process: commands in on one stream, events out on another, engines between.
//!
//! Knows nothing of networks, stores or other workers; its node decides what is loaded and when it
//! ends. When its input ends it ends itself, so that a node that dies leaves no worker behind.

mod beat;
mod host;
mod loader;
mod meeting;
mod mlx;
mod moving;
mod outbox;

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use mlxcel_engine::{DeviceChoice, Trace};
use mlxcel_protocol::v1::{WorkerCommand, WorkerEvent, WorkerReady, worker_event};

pub use loader::{DeviceDescription, EngineLoader, Joined, LoadError};
pub use mlx::MlxLoader;

use crate::frames::{self, FrameError};
use crate::sys;
use beat::Heart;
use host::{Host, Input, Next};
use outbox::Outbox;

/// How a worker process works.
#[derive(Debug, Clone, Default)]
pub struct WorkerOptions {
    /// The index of the worker's device on its node.
    pub device_index: u32,
    /// Where its engines run.
    pub device: DeviceChoice,
    /// Most sequences in one step; the engine's default when absent.
    pub max_sequences: Option<u32>,
    /// Where its engines note what each step does; closed when the process ends.
    pub trace: Option<Arc<Trace>>,
}

/// Why a worker ended other than by command.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// What came in is not a command.
    #[error("the node sent no valid command: {0}")]
    Input(FrameError),
    /// Events can no longer be sent.
    #[error("events cannot be sent to the node: {0}")]
    Output(FrameError),
}

impl WorkerError {
    /// The process' exit code for this error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) => 65,
            Self::Output(_) => 74,
        }
    }
}

/// Runs a worker over its process' standard input and output, then ends the process.
///
/// Standard output belongs to the node: on Unix, whatever else prints there goes to standard error
/// instead. When the input ends the process ends within two seconds, even if an engine hangs.
pub fn run_process(options: WorkerOptions, loader: Box<dyn EngineLoader>) -> ExitCode {
    let trace = options.trace.clone();
    let input = EndsProcess { input: std::io::stdin(), trace: trace.clone() };
    let result = sys::claim_stdout()
        .map_err(|error| WorkerError::Output(FrameError::Io(error)))
        .and_then(|output| run(input, output, options, loader));
    let code = result.map_or_else(
        |error| {
            eprintln!("{error}");
            error.exit_code()
        },
        |()| 0,
    );
    if let Some(trace) = trace {
        trace.close();
    }
    // Engines may still compute; tearing down what they use under them would crash.
    sys::end_process(code)
}

/// Input whose end is the end of the process, whatever the other threads do.
struct EndsProcess<R> {
    input: R,
    trace: Option<Arc<Trace>>,
}

impl<R: Read> Read for EndsProcess<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(buffer);
        if !buffer.is_empty() && !matches!(read, Ok(1..)) {
            let trace = self.trace.take();
            thread::spawn(move || {
                thread::sleep(EXIT_PATIENCE);
                eprintln!("the worker did not end by itself");
                if let Some(trace) = trace {
                    trace.close();
                }
                sys::end_process(70);
            });
        }
        read
    }
}

/// Serves `input` until it ends, or until a `WorkerDrain` and the last running request.
///
/// At the end of `input` every request is cancelled and given a moment to say so. Threads that are
/// loading or waiting for input may outlive the call; the process is expected to end after it.
///
/// # Errors
/// [`WorkerError`] when either stream breaks.
pub fn run<R, W>(
    input: R,
    output: W,
    options: WorkerOptions,
    loader: Box<dyn EngineLoader>,
) -> Result<(), WorkerError>
where
    R: Read + Send + 'static,
    W: Write + Send + 'static,
{
    let (inputs, inbox) = mpsc::channel();
    let outbox = Outbox::start(output);
    let DeviceDescription { mut device, mlx_version } = loader.device();
    device.index = options.device_index;
    let ready = WorkerReady { device: Some(device), mlx_version, pid: std::process::id() };
    outbox.push(WorkerEvent { kind: Some(worker_event::Kind::Ready(ready)) });

    let jobs = loader::start(loader, outbox.clone(), inputs.clone());
    let reader = inputs.clone();
    thread::spawn(move || read_commands(input, &reader));

    let heart = Heart::start(outbox.clone());
    let mut host = Host::new(options, (outbox.clone(), heart.clone()), inputs, jobs);
    let result = serve(&mut host, &heart, &inbox);
    outbox.finish(EXIT_PATIENCE).map_err(WorkerError::Output)?;
    result
}

fn serve(host: &mut Host, heart: &Heart, inbox: &mpsc::Receiver<Input>) -> Result<(), WorkerError> {
    loop {
        let input = inbox.recv_timeout(STATE_INTERVAL);
        heart.obeys(true);
        let next = input.map_or(Next::Continue, |input| host.handle(input));
        host.publish();
        heart.obeys(false);
        match next {
            Next::Continue if host.drained() => return Ok(()),
            Next::Continue => {}
            Next::Stop(result) => {
                host.cancel_all();
                while !host.idle() {
                    let Ok(input) = inbox.recv_timeout(CANCEL_PATIENCE) else { break };
                    host.handle(input);
                }
                return result;
            }
        }
    }
}

fn read_commands(mut input: impl Read, inputs: &mpsc::Sender<Input>) {
    loop {
        let (message, last) = match frames::read::<WorkerCommand>(&mut input) {
            Ok(Some(command)) => (Input::Command(Box::new(command)), false),
            Ok(None) => (Input::Ended(Ok(())), true),
            Err(error) => (Input::Ended(Err(WorkerError::Input(error))), true),
        };
        if inputs.send(message).is_err() || last {
            return;
        }
    }
}

/// How often running sequences' numbers are sent.
const STATE_INTERVAL: Duration = Duration::from_millis(250);
/// How long a cancelled request may take to say that it ended when the worker is ending.
const CANCEL_PATIENCE: Duration = Duration::from_millis(200);
const EXIT_PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
