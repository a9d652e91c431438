//! A worker driven through its streams, with engines that follow scripts.

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use mlxcel_engine::{Engine, LoadOptions, LoadStep};
use mlxcel_protocol::v1::{
    CancelRequest, FailureKind, FinishReason, GenerateEvent, GenerateRequest, UnloadModelRequest,
    WorkerCommand, WorkerDrain, WorkerEvent, WorkerLoad, generate_event, generate_request, load_progress,
    worker_command, worker_event,
};

use super::*;

#[path = "../../toy/engine.rs"]
mod engine;

/// Loads when told to, so that a test decides how long a load takes.
struct GatedLoader {
    gate: mpsc::Receiver<Result<(), LoadError>>,
}

impl EngineLoader for GatedLoader {
    fn device(&self) -> DeviceDescription {
        DeviceDescription::default()
    }

    fn load(
        &mut self,
        path: &Path,
        _: LoadOptions,
        progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Box<dyn Engine>, LoadError> {
        assert!(path != Path::new("panic"), "told to");
        progress(LoadStep { what: "reading".into(), done_bytes: 1, total_bytes: 2 });
        self.gate.recv().expect("gate")?;
        Ok(Box::new(engine::ScriptEngine::new(Arc::new(|_| {}))))
    }
}

struct Rig {
    input: Option<PipeWriter>,
    output: PipeReader,
    gate: mpsc::Sender<Result<(), LoadError>>,
    worker: JoinHandle<Result<(), WorkerError>>,
}

impl Rig {
    fn start() -> Self {
        let (stdin, input) = pipe().expect("pipe");
        let (output, stdout) = pipe().expect("pipe");
        let (gate, gated) = mpsc::channel();
        let loader = Box::new(GatedLoader { gate: gated });
        let options = WorkerOptions { device_index: 3, ..WorkerOptions::default() };
        let worker = std::thread::spawn(move || run(stdin, stdout, options, loader));
        let mut rig = Self { input: Some(input), output, gate, worker };
        let ready = rig.next();
        assert!(matches!(
            ready,
            Some(worker_event::Kind::Ready(it)) if it.device.as_ref().map(|it| it.index) == Some(3)
        ));
        rig
    }

    fn with_model() -> Self {
        let mut rig = Self::start();
        rig.load("m", "model");
        rig.gate.send(Ok(())).expect("gate");
        assert!(matches!(rig.load_end(), load_progress::Kind::Ready(_)));
        rig
    }

    fn send(&mut self, kind: worker_command::Kind) {
        let input = self.input.as_mut().expect("open");
        frames::write(input, &WorkerCommand { kind: Some(kind) }).expect("written");
    }

    fn load(&mut self, name: &str, path: &str) {
        let load = WorkerLoad { served_name: name.into(), path: path.into(), ..WorkerLoad::default() };
        self.send(worker_command::Kind::Load(load));
    }

    fn generate(&mut self, id: &str, script: &str) {
        let request = GenerateRequest {
            request_id: id.into(),
            model: "m".into(),
            prompt: Some(generate_request::Prompt::Text(script.into())),
            ..GenerateRequest::default()
        };
        self.send(worker_command::Kind::Generate(request));
    }

    /// The next event; `None` when the worker has closed its output.
    fn next(&mut self) -> Option<worker_event::Kind> {
        let event = frames::read::<WorkerEvent>(&mut self.output).expect("valid frame")?;
        Some(event.kind.expect("known kind"))
    }

    fn load_end(&mut self) -> load_progress::Kind {
        loop {
            if let worker_event::Kind::Load(load) = self.next().expect("running") {
                match load.progress.expect("progress").kind.expect("kind") {
                    load_progress::Kind::Step(_) => {}
                    end => return end,
                }
            }
        }
    }

    fn next_of(&mut self, id: &str) -> GenerateEvent {
        loop {
            if let worker_event::Kind::Generate(it) = self.next().expect("running")
                && it.request_id == id
            {
                return it.event.expect("event");
            }
        }
    }

    /// All text of a request, and how it ended.
    fn outcome(&mut self, id: &str) -> (String, generate_event::Kind) {
        let mut text = String::new();
        loop {
            match self.next_of(id).kind.expect("kind") {
                generate_event::Kind::Started(_) => {}
                generate_event::Kind::Delta(delta) => {
                    delta.choices.iter().for_each(|choice| text.push_str(&choice.text));
                }
                end => return (text, end),
            }
        }
    }

    fn failure(&mut self, id: &str) -> FailureKind {
        match self.outcome(id).1 {
            generate_event::Kind::Failed(failure) => failure.kind(),
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    fn end(mut self) -> Result<(), WorkerError> {
        self.input = None;
        while self.next().is_some() {}
        self.worker.join().expect("no panic")
    }
}

fn reason(end: &generate_event::Kind) -> FinishReason {
    match end {
        generate_event::Kind::Finished(finished) => finished.reason(),
        other => panic!("expected an end, got {other:?}"),
    }
}

#[test]
fn a_request_streams_its_text_and_ends_once() {
    let mut rig = Rig::with_model();
    rig.generate("a", "count 3");
    let (text, end) = rig.outcome("a");
    assert_eq!((text.as_str(), reason(&end)), ("0 1 2 ", FinishReason::Length));
    rig.end().expect("ends well");
}

#[test]
fn a_load_does_not_hold_up_requests_on_another_model() {
    let mut rig = Rig::with_model();
    rig.load("other", "model");
    rig.generate("a", "count 1");
    assert_eq!(rig.outcome("a").0, "0 ");
    rig.gate.send(Ok(())).expect("gate");
    assert!(matches!(rig.load_end(), load_progress::Kind::Ready(it) if it.name == "other"));
}

#[test]
fn a_cancelled_request_ends_as_cancelled() {
    let mut rig = Rig::with_model();
    rig.generate("a", "slow 100000");
    rig.next_of("a");
    rig.send(worker_command::Kind::Cancel(CancelRequest { request_id: "a".into() }));
    assert_eq!(reason(&rig.outcome("a").1), FinishReason::Cancelled);
}

#[test]
fn unloading_ends_the_model_s_requests() {
    let mut rig = Rig::with_model();
    rig.generate("a", "slow 100000");
    rig.next_of("a");
    rig.send(worker_command::Kind::Unload(UnloadModelRequest { model: "m".into() }));
    assert_eq!(reason(&rig.outcome("a").1), FinishReason::Cancelled);
    rig.generate("b", "count 1");
    assert_eq!(rig.failure("b"), FailureKind::ModelNotFound);
}

#[test]
fn a_model_unloaded_while_loading_says_so_and_can_be_loaded_again() {
    let mut rig = Rig::start();
    rig.load("m", "model");
    rig.send(worker_command::Kind::Unload(UnloadModelRequest { model: "m".into() }));
    assert!(
        matches!(rig.load_end(), load_progress::Kind::Failed(it) if it.kind() == FailureKind::ModelNotFound)
    );
    rig.load("m", "model");
    rig.gate.send(Err(LoadError::Invalid("of the first load".into()))).expect("gate");
    rig.gate.send(Ok(())).expect("gate");
    assert!(matches!(rig.load_end(), load_progress::Kind::Ready(_)));
}

#[test]
fn requests_that_break_a_rule_fail_by_kind() {
    let mut rig = Rig::with_model();
    rig.load("slow", "model");
    rig.generate("bad", "no script");
    assert_eq!(rig.failure("bad"), FailureKind::InvalidRequest);
    let empty = GenerateRequest { request_id: "e".into(), model: "m".into(), ..Default::default() };
    rig.send(worker_command::Kind::Generate(empty.clone()));
    assert_eq!(rig.failure("e"), FailureKind::InvalidRequest);
    let loading = GenerateRequest { request_id: "l".into(), model: "slow".into(), ..empty };
    rig.send(worker_command::Kind::Generate(loading));
    assert_eq!(rig.failure("l"), FailureKind::Overloaded);
}

#[test]
fn a_load_that_panics_fails_and_the_worker_goes_on() {
    let mut rig = Rig::with_model();
    rig.load("p", "panic");
    assert!(matches!(rig.load_end(), load_progress::Kind::Failed(it) if it.kind() == FailureKind::Internal));
    rig.generate("a", "count 1");
    assert_eq!(rig.outcome("a").0, "0 ");
}

#[test]
fn draining_finishes_what_runs_and_refuses_the_rest() {
    let mut rig = Rig::with_model();
    rig.generate("a", "slow 10");
    rig.next_of("a");
    rig.send(worker_command::Kind::Drain(WorkerDrain {}));
    rig.generate("b", "count 1");
    assert_eq!(rig.failure("b"), FailureKind::Draining);
    assert_eq!(reason(&rig.outcome("a").1), FinishReason::Length);
    while rig.next().is_some() {}
    rig.worker.join().expect("no panic").expect("ends well");
}

#[test]
fn the_end_of_the_input_cancels_everything_and_ends_the_worker() {
    let mut rig = Rig::with_model();
    rig.generate("a", "slow 100000");
    rig.next_of("a");
    rig.load("never", "model");
    rig.input = None;
    assert_eq!(reason(&rig.outcome("a").1), FinishReason::Cancelled);
    while rig.next().is_some() {}
    rig.worker.join().expect("no panic").expect("ends well");
}

#[test]
fn input_that_is_no_frame_ends_the_worker_with_an_error() {
    let mut rig = Rig::start();
    rig.input.as_mut().expect("open").write_all(b"\xff\xff\xff\xff").expect("written");
    while rig.next().is_some() {}
    let error = rig.worker.join().expect("no panic").expect_err("no frame");
    assert!(matches!(error, WorkerError::Input(FrameError::TooLong(_))), "{error}");
    assert_eq!(error.exit_code(), 65);
}

#[test]
fn running_sequences_are_reported() {
    let mut rig = Rig::with_model();
    rig.generate("a", "slow 100000");
    let running = std::iter::from_fn(|| rig.next()).any(
        |event| matches!(event, worker_event::Kind::Models(it) if it.models.iter().any(|it| it.running == 1)),
    );
    assert!(running);
    rig.end().expect("ends well");
}
