//! How nodes end, and that nothing of them stays.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use mlxcel_protocol::v1::{FailureKind, FinishReason};

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
