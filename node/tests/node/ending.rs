//! How nodes end, and that nothing of them stays.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use mlxcel_node::frames;
use mlxcel_protocol::v1::{
    FailureKind, FinishReason, GenerateRequest, WorkerCommand, WorkerEvent, WorkerLoad, generate_request,
    load_progress, worker_command, worker_event,
};

use crate::support::{Bench, LONG, runs, signal, until};

#[tokio::test]
async fn a_drain_finishes_what_runs_refuses_the_rest_and_leaves_no_process() {
    let bench = Bench::new();
    let (node, mut router) = bench.start_with_model().await;
    let pid = node.state().workers[0].pid;
    assert!(runs(pid));
    let mut answer = router.generate("a", "slow 30").await;
    answer.first_text().await;
    let drained = tokio::spawn(node.drain(LONG));
    router.state_where(|state| state.draining).await;
    let refused = router.generate("b", "count 1").await.end().await.1;
    assert_eq!(refused, Err(FailureKind::Draining));
    assert_eq!(answer.end().await.1, Ok(FinishReason::Length));
    drop((answer, router));
    drained.await.expect("drains");
    assert!(!runs(pid));
}

#[tokio::test]
async fn a_drain_out_of_patience_fails_what_still_runs() {
    let bench = Bench::new();
    let (node, mut router) = bench.start_with_model().await;
    let pid = node.state().workers[0].pid;
    let mut answer = router.generate("a", "slow 100000").await;
    answer.first_text().await;
    let drained = tokio::spawn(node.drain(Duration::from_millis(50)));
    assert_eq!(answer.end().await.1, Err(FailureKind::Draining));
    drained.await.expect("drains");
    assert!(!runs(pid));
}

#[tokio::test]
async fn a_dropped_node_leaves_no_process() {
    let bench = Bench::new();
    let node = bench.start().await;
    let pid = node.state().workers[0].pid;
    drop(node);
    until("the worker ends", LONG, || !runs(pid)).await;
}

#[tokio::test]
async fn a_killed_node_leaves_no_worker() {
    let bench = Bench::new();
    let mut node = Command::new(env!("CARGO_BIN_EXE_mlxcel-toy-worker"))
        .arg("--node")
        .arg(bench.path("state"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut line = String::new();
    let stdout = node.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let worker: u32 = line.trim().parse().expect("a process id");
    assert!(runs(worker));
    signal(node.id(), "KILL");
    node.wait().expect("ended");
    until("the worker ends", Duration::from_secs(2), || !runs(worker)).await;
}

#[tokio::test]
async fn a_worker_whose_engine_hangs_ends_with_its_input() {
    let bench = Bench::new();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_mlxcel-toy-worker"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut input = worker.stdin.take().expect("piped");
    let mut output = worker.stdout.take().expect("piped");
    let mut send = |kind| {
        frames::write(&mut input, &WorkerCommand { kind: Some(kind) }).expect("written");
    };
    let path = bench.model("m.gguf");
    let load = WorkerLoad { served_name: "m".into(), path, ..WorkerLoad::default() };
    send(worker_command::Kind::Load(load));
    let loaded = std::iter::from_fn(|| frames::read::<WorkerEvent>(&mut output).expect("a frame"))
        .filter_map(|event| event.kind)
        .any(|kind| {
            let worker_event::Kind::Load(load) = kind else { return false };
            let progress = load.progress.and_then(|progress| progress.kind);
            matches!(progress, Some(load_progress::Kind::Ready(_)))
        });
    assert!(loaded);
    send(worker_command::Kind::Generate(GenerateRequest {
        request_id: "a".into(),
        model: "m".into(),
        prompt: Some(generate_request::Prompt::Text("hang".into())),
        ..GenerateRequest::default()
    }));
    drop(input);
    until("the worker ends", Duration::from_secs(4), || !runs(worker.id())).await;
    assert_eq!(worker.wait().expect("ended").code(), Some(70));
}
