//! What runs, what crashes, and what callers see of it.

use std::time::Duration;

use mlxcel_node::{Node, NodeOptions, StartError};
use mlxcel_protocol::v1::{
    CancelRequest, FailureKind, FinishReason, LoadModelRequest, NodeState, UnloadModelRequest,
    WatchBeatsRequest, WorkerHealth, load_progress,
};
use tokio::time::{Instant, timeout};

use crate::support::{Bench, LONG, Router, signal, until};

#[tokio::test]
async fn a_request_streams_from_the_worker_to_the_caller() {
    let bench = Bench::new();
    let (_node, mut router) = bench.start_with_model().await;
    let (text, end) = router.generate("a", "count 4").await.end().await;
    assert_eq!((text.as_str(), end), ("0 1 2 3 ", Ok(FinishReason::Length)));
}

#[tokio::test]
async fn a_killed_worker_ends_its_requests_and_comes_back_with_its_model() {
    let bench = Bench::new();
    let (node, mut router) = bench.start_with_model().await;
    let pid = node.state().workers[0].pid;
    let mut answer = router.generate("a", "slow 100000").await;
    answer.first_text().await;

    signal(pid, "KILL");
    let killed = Instant::now();
    assert_eq!(answer.end().await.1, Err(FailureKind::WorkerLost));
    assert!(killed.elapsed() < Duration::from_secs(1), "took {:?}", killed.elapsed());

    let worker = router.worker_after(pid).await;
    assert_eq!((worker.restarts, worker.reason.as_str()), (1, ""));
    let (text, end) = router.generate("b", "count 1").await.end().await;
    assert_eq!((text.as_str(), end), ("0 ", Ok(FinishReason::Length)));
}

#[tokio::test]
async fn a_stopped_worker_is_told_of_within_a_second_and_goes_on() {
    let bench = Bench::new();
    let (node, mut router) = bench.start_with_model().await;
    let pid = node.state().workers[0].pid;
    let mut answer = router.generate("a", "slow 100").await;
    answer.first_text().await;
    signal(pid, "STOP");
    let stopped = Instant::now();
    until("stalled", Duration::from_secs(1), || node.state().workers[0].stalled).await;
    assert!(stopped.elapsed() > Duration::from_millis(500), "told too early: {:?}", stopped.elapsed());
    let reason = node.state().workers[0].reason.clone();
    assert!(reason.starts_with("no sign of life for 0."), "{reason}");

    signal(pid, "CONT");
    until("well", Duration::from_secs(1), || !node.state().workers[0].stalled).await;
    assert_eq!(answer.end().await.1, Ok(FinishReason::Length));
    assert_eq!(node.state().workers[0].restarts, 0);
}

#[tokio::test]
async fn a_worker_that_hangs_is_killed_and_replaced() {
    for script in ["stall 50", "hang"] {
        let bench = Bench::new();
        let options = NodeOptions { hang_timeout: Duration::from_secs(3), ..bench.options() };
        let node = Node::start(options).await.expect("starts");
        let mut router = Router::claiming(&node).await;
        router.load(&bench.model("m.gguf"), "m").await.expect("loads");
        let pid = node.state().workers[0].pid;
        let mut answer = router.generate("a", script).await;
        assert_eq!(answer.end().await.1, Err(FailureKind::WorkerLost));
        let worker = router.worker_after(pid).await;
        assert_eq!((worker.restarts, worker.stalled), (1, false), "{script}");
        assert_eq!(router.generate("b", "count 1").await.end().await.1, Ok(FinishReason::Length));
    }
}

#[tokio::test]
async fn a_node_beats_quickly_while_it_has_requests() {
    let bench = Bench::new();
    let (_node, mut router) = bench.start_with_model().await;
    let mut watching = router.client.clone();
    let beats = watching.watch_beats(WatchBeatsRequest {}).await;
    let mut beats = beats.expect("admitted").into_inner();
    let answer = router.generate("a", "slow 100000").await;
    let counted = async {
        for _ in 0..10 {
            beats.message().await.expect("stream").expect("goes on");
        }
    };
    timeout(Duration::from_secs(5), counted).await.expect("ten beats in less than ten seconds");
    drop(answer);
}

#[tokio::test]
async fn a_crash_is_reported_with_its_signal() {
    let bench = Bench::new();
    let (_node, mut router) = bench.start_with_model().await;
    let mut watching = router.client.clone();
    let mut states = watching.watch_state(mlxcel_protocol::v1::WatchStateRequest {}).await;
    let states = states.as_mut().expect("admitted").get_mut();
    let end = router.generate("a", "segv").await.end().await.1;
    assert_eq!(end, Err(FailureKind::WorkerLost));
    let reported = async {
        loop {
            let state: NodeState = states.message().await.expect("stream").expect("goes on");
            let worker = &state.workers[0];
            if worker.health() == WorkerHealth::Restarting {
                return worker.reason.clone();
            }
        }
    };
    let reason = timeout(LONG, reported).await.expect("reported");
    assert_eq!(reason, "worker killed by signal 11");
}

#[tokio::test]
async fn dropping_the_stream_cancels_at_the_worker() {
    let bench = Bench::new();
    let (node, mut router) = bench.start_with_model().await;
    let mut answer = router.generate("a", "slow 100000").await;
    answer.first_text().await;
    drop(answer);
    until("cancelled", Duration::from_millis(500), || bench.traced("cancelled") == 1).await;
    let idle = || node.state().workers[0].models[0].running == 0;
    until("idle", LONG, idle).await;
}

#[tokio::test]
async fn a_lost_connection_cancels_its_requests() {
    let bench = Bench::new();
    let (_node, mut router) = bench.start_with_model().await;
    let mut answer = router.generate("a", "slow 100000").await;
    answer.first_text().await;
    drop((answer, router));
    until("cancelled", Duration::from_secs(1), || bench.traced("cancelled") == 1).await;
}

#[tokio::test]
async fn a_request_cancelled_by_name_ends_as_cancelled() {
    let bench = Bench::new();
    let (_node, mut router) = bench.start_with_model().await;
    let mut answer = router.generate("a", "slow 100000").await;
    answer.first_text().await;
    let cancel = CancelRequest { request_id: "a".into() };
    let reply = router.client.cancel(cancel.clone()).await.expect("admitted");
    assert!(reply.into_inner().was_running);
    assert_eq!(answer.end().await.1, Ok(FinishReason::Cancelled));
    drop(answer);
    let reply = router.client.cancel(cancel).await.expect("admitted");
    assert!(!reply.into_inner().was_running);
}

#[tokio::test]
async fn a_request_id_in_use_is_refused_and_the_first_goes_on() {
    let bench = Bench::new();
    let (_node, mut router) = bench.start_with_model().await;
    let mut first = router.generate("a", "slow 20").await;
    first.first_text().await;
    let second = router.generate("a", "count 1").await.end().await.1;
    assert_eq!(second, Err(FailureKind::InvalidRequest));
    assert_eq!(first.end().await.1, Ok(FinishReason::Length));
}

#[tokio::test]
async fn concurrent_loads_of_a_model_are_one() {
    let bench = Bench::new();
    let node = bench.start().await;
    let mut router = Router::claiming(&node).await;
    let model = bench.model("slow.gguf");
    let request = LoadModelRequest { model, served_name: "m".into(), ..LoadModelRequest::default() };
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(router.client.load_model(request.clone()).await.expect("admitted").into_inner());
    }
    for mut stream in streams {
        let mut last = None;
        while let Some(progress) = stream.message().await.expect("stream") {
            last = progress.kind;
        }
        assert!(matches!(last, Some(load_progress::Kind::Ready(_))), "{last:?}");
    }
    let other = LoadModelRequest { quantize_bits: 4, ..request };
    let mut refused = router.client.load_model(other).await.expect("admitted").into_inner();
    let refused = refused.message().await.expect("stream").expect("an end").kind;
    assert!(
        matches!(&refused, Some(load_progress::Kind::Failed(it)) if it.kind() == FailureKind::InvalidRequest),
        "{refused:?}"
    );
    assert_eq!(bench.traced("load slow.gguf"), 1);
}

#[tokio::test]
async fn a_missing_model_is_named() {
    let bench = Bench::new();
    let node = bench.start().await;
    let mut router = Router::claiming(&node).await;
    let failure = router.load("/no/such/model", "m").await.expect_err("missing");
    assert_eq!(failure.kind(), FailureKind::ModelNotFound);
    assert!(failure.message.contains("/no/such/model"), "{}", failure.message);
    let end = router.generate("a", "count 1").await.end().await.1;
    assert_eq!(end, Err(FailureKind::ModelNotFound));
}

#[tokio::test]
async fn a_model_that_takes_the_worker_down_is_not_loaded_again() {
    let bench = Bench::new();
    let node = bench.start().await;
    let mut router = Router::claiming(&node).await;
    let failure = router.load(&bench.model("crash.gguf"), "bomb").await.expect_err("crashes");
    assert_eq!(failure.kind(), FailureKind::WorkerLost);
    router.load(&bench.model("m.gguf"), "m").await.expect("the next worker loads");
    assert_eq!(router.generate("a", "count 1").await.end().await.1, Ok(FinishReason::Length));
    assert_eq!(node.state().workers[0].restarts, 1);
}

#[tokio::test]
async fn an_unloaded_model_is_gone() {
    let bench = Bench::new();
    let (_node, mut router) = bench.start_with_model().await;
    let unload = UnloadModelRequest { model: "m".into() };
    let reply = router.client.unload_model(unload.clone()).await.expect("admitted");
    assert!(reply.into_inner().was_loaded);
    let end = router.generate("a", "count 1").await.end().await.1;
    assert_eq!(end, Err(FailureKind::ModelNotFound));
    let reply = router.client.unload_model(unload).await.expect("admitted");
    assert!(!reply.into_inner().was_loaded);
}

#[tokio::test]
async fn requests_go_to_the_least_loaded_device() {
    let bench = Bench::new();
    let mut options = bench.options();
    options.workers = vec![bench.worker(&[]), bench.worker(&[])];
    let node = Node::start(options).await.expect("starts");
    let mut router = Router::claiming(&node).await;
    router.load(&bench.model("m.gguf"), "m").await.expect("loads");
    let mut answers = Vec::new();
    for id in ["a", "b", "c", "d"] {
        let mut answer = router.generate(id, "slow 100000").await;
        answer.first_text().await;
        answers.push(answer);
    }
    let spread =
        |state: &NodeState| state.workers.iter().all(|worker| worker.models.iter().any(|it| it.running == 2));
    router.state_where(spread).await;
}

#[tokio::test]
async fn a_device_that_cannot_be_used_stops_the_start_with_its_reason() {
    let bench = Bench::new();
    let mut options = bench.options();
    options.workers = vec![bench.worker(&[]), bench.worker(&["--fail", "there is no GPU 1"])];
    let error = Node::start(options).await.expect_err("no device");
    let expected = "device 1 cannot be used: worker exited with code 1: there is no GPU 1";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_mend() {
    let bench = Bench::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let mut options = bench.options();
    options.listen = taken.local_addr().expect("bound");
    let port = options.listen.port();
    let error = Node::start(options).await.expect_err("taken");
    assert!(matches!(error, StartError::Listen { .. }));
    let text = error.to_string();
    assert!(text.contains(&port.to_string()) && text.contains("another port"), "{text}");
    assert!(!text.contains('\n'));
}

#[tokio::test]
async fn models_named_at_the_start_are_loaded() {
    let bench = Bench::new();
    let mut options = bench.options();
    let model = bench.model("m.gguf");
    options.models = vec![LoadModelRequest { model, served_name: "m".into(), ..LoadModelRequest::default() }];
    let node = Node::start(options).await.expect("starts");
    let mut router = Router::claiming(&node).await;
    router.worker_after(0).await;
    assert_eq!(router.generate("a", "count 1").await.end().await.1, Ok(FinishReason::Length));
}
