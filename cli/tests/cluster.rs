//! Clusters of real processes with real weights, while parts of them are killed, ended and left.

#![cfg(unix)]
#![allow(clippy::expect_used, reason = "tests")]

mod support;

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::cluster::{Cluster, MODEL, long_answer, question};
use support::http::{End, Events};
use support::{eventually, is_running, signal};

/// What is done at once takes this long at most, on a busy machine too.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Reads a stream to its end elsewhere.
fn finish(stream: Events) -> thread::JoinHandle<End> {
    thread::spawn(move || stream.end())
}

#[track_caller]
fn assert_done(end: &End) {
    assert!(matches!(end, End::Done(text) if !text.is_empty()), "{end:?}");
}

#[test]
fn a_cluster_found_by_multicast_answers_whichever_node_is_killed() {
    let cluster = Cluster::by_multicast();
    let (mut first, mut second) = (cluster.node("first"), cluster.node("second"));
    cluster.wait_until_serving("first");
    cluster.wait_until_serving("second");
    assert_eq!(cluster.health()["models"], json!([{"id": MODEL, "status": "ready"}]));
    let answer = cluster.ask();

    second.kill();
    assert_eq!(cluster.ask(), answer);
    eventually("the killed node is no longer listed", || cluster.health_of("second").is_none());

    let _second = cluster.node("second");
    cluster.wait_until_serving("second");
    first.kill();
    assert_eq!(cluster.ask(), answer, "the restarted node is used again");
}

#[test]
fn a_killed_node_costs_nobody_an_answer() {
    let cluster = Cluster::by_multicast();
    let (mut first, _second) = (cluster.node("first"), cluster.node("second"));
    let worker = cluster.wait_until_serving("first");
    cluster.wait_until_serving("second");

    // Two streams on each node, past their first token.
    let begun: Vec<Events> = (0..4)
        .map(|_| {
            let mut stream = cluster.stream(&long_answer(200));
            stream.next_text();
            stream
        })
        .collect();
    assert_eq!((cluster.in_flight("first"), cluster.in_flight("second")), (2, 2));
    // Two more on each, busy with their prompts, unless the machine is very fast.
    let prompt = "The keeper climbed the stairs and lit the lamp. ".repeat(40);
    let later: Vec<_> = (0..4)
        .map(|_| {
            let (address, body) = (cluster.address.clone(), question(&prompt, 4));
            thread::spawn(move || Events::post(&address, "/v1/chat/completions", &body).end())
        })
        .collect();
    eventually("every request is on a node", || {
        cluster.in_flight("first") == 4 || later.iter().any(|it| it.is_finished())
    });

    first.kill();
    let begun: Vec<_> = begun.into_iter().map(finish).collect();
    begun.into_iter().for_each(|it| assert_done(&it.join().expect("it ends")));
    later.into_iter().for_each(|it| assert_done(&it.join().expect("it ends")));
    eventually("the killed node's worker is gone", || !is_running(worker));
}

#[test]
fn an_answer_goes_on_elsewhere_as_if_nothing_had_happened() {
    let cluster = Cluster::by_address();
    let mut nodes = vec![cluster.node("first"), cluster.node("second")];
    cluster.wait_until_serving("first");
    cluster.wait_until_serving("second");
    let End::Done(undisturbed) = cluster.stream(&long_answer(120)).end() else {
        panic!("nothing disturbs it")
    };
    let mut stream = cluster.stream(&long_answer(120));
    let mut text = stream.next_text();
    for _ in 0..20 {
        text.push_str(&stream.next_text());
    }
    nodes.swap_remove(usize::from(cluster.in_flight("second") == 1)).kill();
    let End::Done(rest) = stream.end() else { panic!("it goes on") };
    assert_eq!(text + &rest, undisturbed);
}

/// Has an answer whose node or worker is stopped in the middle be the same as one that nothing disturbs. Returns what was
/// stopped: the node's name, and the process.
fn stopped_in_mid_answer(cluster: &Cluster, process: impl Fn(&str) -> u32) -> (&'static str, u32) {
    let End::Done(undisturbed) = cluster.stream(&long_answer(120)).end() else {
        panic!("nothing disturbs it")
    };
    let mut stream = cluster.stream(&long_answer(120));
    let mut text = stream.next_text();
    for _ in 0..20 {
        text.push_str(&stream.next_text());
    }
    let name = if cluster.in_flight("first") == 1 { "first" } else { "second" };
    let stopped = process(name);
    signal("STOP", stopped);
    let at = Instant::now();
    let mut gap = Duration::ZERO;
    let mut last = at;
    while let Some(more) = stream.text() {
        text.push_str(&more);
        gap = gap.max(last.elapsed());
        last = Instant::now();
    }
    assert_eq!(text, undisturbed);
    println!("longest gap {gap:?}");
    // A second for the stop to be noticed, the rest for the prompt to be computed again.
    assert!(gap < AT_ONCE, "{gap:?}");
    (name, stopped)
}

#[test]
fn a_stopped_node_s_answer_goes_on_elsewhere_and_the_node_is_used_again_once_it_goes_on() {
    let cluster = Cluster::by_address();
    let nodes = [("first", cluster.node("first")), ("second", cluster.node("second"))];
    cluster.wait_until_serving("first");
    cluster.wait_until_serving("second");
    let pid = |name: &str| nodes.iter().find(|(it, _)| *it == name).expect("one of them").1.pid();
    let (name, stopped) = stopped_in_mid_answer(&cluster, pid);
    eventually("the node is lost", || cluster.health_of(name).is_none());
    // Long enough for the router to have tried it in vain.
    thread::sleep(Duration::from_secs(4));

    signal("CONT", stopped);
    let continued = Instant::now();
    cluster.wait_until_serving(name);
    println!("used again after {:?}", continued.elapsed());
    assert!(continued.elapsed() < Duration::from_secs(2), "{:?}", continued.elapsed());
    // One on each.
    let streams = [cluster.stream(&long_answer(60)), cluster.stream(&long_answer(60))];
    assert_eq!(cluster.in_flight(name), 1);
    streams.into_iter().for_each(|stream| assert_done(&stream.end()));
}

#[test]
fn a_stopped_worker_s_answer_goes_on_elsewhere_and_the_worker_is_used_again_once_it_goes_on() {
    let cluster = Cluster::by_address();
    let _nodes = [cluster.node("first"), cluster.node("second")];
    cluster.wait_until_serving("first");
    cluster.wait_until_serving("second");
    let worker = |name: &str| cluster.ready_worker(name).expect("it serves");
    let (name, stopped) = stopped_in_mid_answer(&cluster, worker);
    let stalled = || cluster.health_of(name).expect("connected")["workers"][0]["stalled"] == true;
    assert!(stalled());

    signal("CONT", stopped);
    let continued = Instant::now();
    eventually("the worker goes on", || !stalled());
    assert!(continued.elapsed() < Duration::from_secs(2), "{:?}", continued.elapsed());
    eventually("its part of the answer is given up", || cluster.requests_on(name) == 0);
    let streams = [cluster.stream(&long_answer(60)), cluster.stream(&long_answer(60))];
    assert_eq!(cluster.in_flight(name), 1);
    streams.into_iter().for_each(|stream| assert_done(&stream.end()));
    assert_eq!(cluster.health_of(name).expect("connected")["workers"][0]["restarts"], 0);
}

#[test]
fn a_killed_worker_holds_its_stream_up_until_it_is_replaced() {
    let cluster = Cluster::by_address();
    let _node = cluster.node("only");
    let worker = cluster.wait_until_serving("only");
    let answer = cluster.ask();
    let mut stream = cluster.stream(&long_answer(100));
    stream.next_text();

    signal("KILL", worker);
    assert_done(&stream.end());
    assert_eq!(cluster.ask(), answer);
    let health = cluster.health_of("only").expect("the node is connected");
    assert_eq!(health["workers"][0]["restarts"], 1);
    assert_ne!(health["workers"][0]["pid"], worker);
}

#[test]
fn a_router_asked_to_end_finishes_its_streams_first() {
    let mut cluster = Cluster::by_address();
    let node = cluster.node("only");
    let worker = cluster.wait_until_serving("only");
    let mut stream = cluster.stream(&long_answer(60));
    stream.next_text();

    cluster.router.terminate();
    assert_done(&stream.end());
    assert_eq!(cluster.router.wait(), Some(0));
    assert!(is_running(node.pid()) && is_running(worker), "nodes outlive their router");
}

#[test]
fn a_node_asked_to_end_finishes_its_streams_first() {
    let cluster = Cluster::by_address();
    let (mut first, _second) = (cluster.node("first"), cluster.node("second"));
    let worker = cluster.wait_until_serving("first");
    cluster.wait_until_serving("second");
    // One on each.
    let streams: Vec<Events> = (0..2)
        .map(|_| {
            let mut stream = cluster.stream(&long_answer(80));
            stream.next_text();
            stream
        })
        .collect();

    first.terminate();
    eventually("the router sees it drain", || {
        cluster.health_of("first").is_none_or(|node| node["draining"] == true)
    });
    cluster.ask();
    let streams: Vec<_> = streams.into_iter().map(finish).collect();
    for stream in streams {
        assert_done(&stream.join().expect("it ends"));
    }
    assert_eq!(first.wait(), Some(0));
    assert!(!is_running(worker), "a node takes its worker with it");
    eventually("the node is no longer listed", || cluster.health_of("first").is_none());
}

#[test]
fn a_node_asked_twice_ends_at_once() {
    let cluster = Cluster::by_address();
    let mut node = cluster.node("only");
    let worker = cluster.wait_until_serving("only");
    let mut stream = cluster.stream(&long_answer(4000));
    stream.next_text();
    node.terminate();
    eventually("the node drains", || cluster.health_of("only").is_some_and(|node| node["draining"] == true));

    let asked = Instant::now();
    node.terminate();
    assert_eq!(node.wait(), Some(1));
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    eventually("its worker is gone", || !is_running(worker));
}

#[test]
fn a_router_asked_twice_ends_at_once() {
    let mut cluster = Cluster::by_address();
    let _node = cluster.node("only");
    cluster.wait_until_serving("only");
    let mut stream = cluster.stream(&long_answer(4000));
    stream.next_text();
    cluster.router.terminate();
    eventually("the router drains", || TcpStream::connect(&cluster.address).is_err());

    let asked = Instant::now();
    cluster.router.terminate();
    assert_eq!(cluster.router.wait(), Some(1));
    assert!(!matches!(stream.end(), End::Done(_)));
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}

#[test]
fn a_client_that_hangs_up_frees_its_node() {
    let cluster = Cluster::by_address();
    let _node = cluster.node("only");
    cluster.wait_until_serving("only");
    let streams: Vec<Events> = (0..2)
        .map(|_| {
            let mut stream = cluster.stream(&long_answer(4000));
            stream.next_text();
            stream
        })
        .collect();
    // One more that is not streamed: it has sent nothing yet by which a broken pipe could show.
    let whole = {
        let mut body: Value = long_answer(4000);
        body["stream"] = json!(false);
        support::http::open(&cluster.address, "POST", "/v1/chat/completions", &body.to_string())
    };
    eventually("all are on the node", || cluster.requests_on("only") == 3);

    let left = Instant::now();
    drop((streams, whole));
    eventually("none is on the node", || cluster.requests_on("only") == 0);
    assert!(left.elapsed() < AT_ONCE, "{:?}", left.elapsed());
    cluster.ask();
}
