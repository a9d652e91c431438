//! The ledger told what happened, and asked what it owes.

use futures::{FutureExt, StreamExt};
use mlxcel_protocol::v1::{Finished, GenerateRequest, generate_event};

use super::*;
use crate::events::{EventStream, channel};

fn dispatch(id: &str, count: &Arc<AtomicUsize>) -> (Dispatch, EventStream<GenerateEvent>) {
    let (events, stream) = channel();
    let request = GenerateRequest { request_id: id.into(), ..GenerateRequest::default() };
    (Dispatch { request, events, in_flight: InFlight::new(count) }, stream)
}

fn load(name: &str) -> WorkerLoad {
    WorkerLoad { served_name: name.into(), path: "/m".into(), ..WorkerLoad::default() }
}

fn failure_of(stream: EventStream<GenerateEvent>) -> FailureKind {
    let events = stream.collect::<Vec<_>>().now_or_never().expect("ended");
    match events.last().and_then(|event| event.kind.as_ref()) {
        Some(generate_event::Kind::Failed(failure)) => failure.kind(),
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn progress(name: &str, progress: LoadProgress) -> WorkerLoadProgress {
    WorkerLoadProgress { served_name: name.into(), progress: Some(progress) }
}

fn ready(name: &str) -> WorkerLoadProgress {
    let state = wire::ready_model(name, mlxcel_engine::EngineState::default());
    progress(name, wire::load_ready(state))
}

/// A ledger whose worker has the model `m`.
fn with_model() -> Ledger {
    let mut ledger = Ledger::default();
    let (sender, _stream) = channel();
    ledger.load(load("m"), sender, true).expect("sent");
    ledger.load_progressed(ready("m"));
    ledger
}

#[test]
fn a_lost_worker_ends_its_requests_and_frees_their_places() {
    let (mut ledger, count) = (Ledger::default(), Arc::default());
    let (dispatch, stream) = dispatch("a", &count);
    assert!(ledger.generate(dispatch, None).is_some());
    assert_eq!(count.load(Ordering::Relaxed), 1);
    ledger.lost(FailureKind::WorkerLost, "worker killed by signal 9");
    assert_eq!(failure_of(stream), FailureKind::WorkerLost);
    assert_eq!(count.load(Ordering::Relaxed), 0);
}

#[test]
fn a_request_without_a_worker_is_refused_at_once() {
    let (mut ledger, count) = (Ledger::default(), Arc::default());
    let (dispatch, stream) = dispatch("a", &count);
    assert!(ledger.generate(dispatch, Some("worker killed by signal 9")).is_none());
    assert_eq!(failure_of(stream), FailureKind::Overloaded);
}

#[test]
fn events_after_the_end_of_a_request_reach_nobody() {
    let (mut ledger, count) = (Ledger::default(), Arc::default());
    let (dispatch, stream) = dispatch("a", &count);
    ledger.generate(dispatch, None);
    let end = GenerateEvent { kind: Some(generate_event::Kind::Finished(Finished::default())) };
    for _ in 0..2 {
        let event = WorkerGenerate { request_id: "a".into(), event: Some(end.clone()) };
        ledger.generated(event, 0);
    }
    let events = stream.collect::<Vec<_>>().now_or_never().expect("ended");
    assert_eq!(events, [end]);
}

#[test]
fn only_requests_under_way_can_be_cancelled() {
    let (mut ledger, count) = (Ledger::default(), Arc::default());
    let (dispatch, _stream) = dispatch("a", &count);
    ledger.generate(dispatch, None);
    assert!(ledger.cancel("a").is_some());
    assert!(ledger.cancel("b").is_none());
}

#[test]
fn a_model_that_was_ready_is_loaded_again_after_a_crash() {
    let mut ledger = with_model();
    ledger.lost(FailureKind::WorkerLost, "crash");
    assert_eq!(ledger.models(), [wire::loading_model("m")]);
    let commands = ledger.ready();
    assert!(matches!(
        commands.as_slice(),
        [WorkerCommand { kind: Some(worker_command::Kind::Load(it)) }] if it == &load("m")
    ));
}

#[test]
fn a_model_whose_load_takes_the_worker_down_is_not_tried_again() {
    let mut ledger = Ledger::default();
    let (sender, stream) = channel();
    ledger.load(load("bomb"), sender, true);
    ledger.lost(FailureKind::WorkerLost, "crash");
    let ends = stream.collect::<Vec<_>>().now_or_never().expect("ended");
    assert_eq!(ends, [wire::load_failed(FailureKind::WorkerLost, "crash")]);
    assert!(ledger.ready().is_empty());
}

#[test]
fn a_load_asked_for_while_the_worker_is_down_comes_with_the_next_one() {
    let mut ledger = Ledger::default();
    let (sender, _stream) = channel();
    assert!(ledger.load(load("m"), sender, false).is_none());
    ledger.lost(FailureKind::WorkerLost, "could not start");
    assert_eq!(ledger.ready().len(), 1);
}

#[test]
fn an_unloaded_model_is_forgotten() {
    let mut ledger = with_model();
    let (wanted, command) = ledger.unload("m");
    assert!(wanted && command.is_some());
    assert!(ledger.models().is_empty());
    ledger.lost(FailureKind::WorkerLost, "crash");
    assert!(ledger.ready().is_empty());
    assert!(!ledger.unload("m").0);
}

#[test]
fn everyone_who_waits_for_a_load_hears_its_end() {
    let mut ledger = Ledger::default();
    let streams: Vec<_> = (0..2)
        .map(|_| {
            let (sender, stream) = channel();
            ledger.load(load("m"), sender, true);
            stream
        })
        .collect();
    ledger.load_progressed(progress("m", wire::load_failed(FailureKind::InvalidRequest, "no")));
    for stream in streams {
        assert_eq!(stream.collect::<Vec<_>>().now_or_never().map(|it| it.len()), Some(1));
    }
    assert!(ledger.models().is_empty());
}
