//! A rank of a replica, as a process.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use mlxcel_engine::replica::{Follower, Layout, ReplicaOptions, StageLayout};
use mlxcel_engine::{
    AnswerOptions, DeviceChoice, Engine, Event, Limits, LoadOptions, Prompt, Request, SamplingParams, Turn,
    load_leader, sizes,
};
use mlxcel_transport::tcp::{Security, Tcp, TcpConfig};
use mlxcel_transport::{Address, Domain, Kind, PeerId, Transport};

/// Set in the process that is a rank: which, and the ranks of each stage.
pub(super) const ROLE: &str = "MLXCEL_TEST_REPLICA";

/// The files of its model; those of the default model where it is not set.
pub(super) const MODEL: &str = "MLXCEL_TEST_REPLICA_MODEL";

pub(super) const PROMPTS: [&str; 6] = [
    "The three largest cities of Italy are",
    "Once upon a time",
    "The capital of France is",
    "1, 2, 3, 4, 5, 6,",
    "Water boils at",
    "My favourite colour is",
];

/// Not a test: a rank of those that are tested.
#[test]
#[ignore = "a rank of other tests, which start it"]
fn is_a_rank() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (rank, division) = role.split_once(' ').expect("a rank and a division");
    let division: Vec<usize> = division.split(',').map(|ranks| ranks.parse().expect("a number")).collect();
    let rank: usize = rank.parse().expect("a number");
    let (transport, ranks) = meet(rank);
    let layout = layout(&division);
    let options =
        ReplicaOptions { layout, rank, ranks, transport, blocks: 96, step_tokens: 64, micro_batches: None };
    let load = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    let (failed, failure) = mpsc::channel();
    let on_failure = Box::new(move |reason: String| {
        println!("says ended: {reason}");
        // Nobody may wait for it.
        let _ = failed.send(());
    });
    if rank == options.layout.leader() {
        let engine = load_leader(&path(), &load, options, on_failure, &mut |_| {}).expect("it loads");
        println!("\nready {}", engine.state().weight_bytes);
        lead(&*engine);
    } else {
        let follower = Follower::start(&path(), &load, options, on_failure, &mut |_| {}).expect("it loads");
        println!("\nready {}", follower.state().weight_bytes);
        failure.recv().expect("the replica ends before this process");
    }
}

pub(super) fn path() -> PathBuf {
    let path = std::env::var_os(MODEL).or_else(|| std::env::var_os("MLXCEL_TEST_SMOLLM2"));
    path.map(PathBuf::from)
        .expect("MLXCEL_TEST_SMOLLM2 names the default model's GGUF file; `./x test` sets it")
}

fn layout(division: &[usize]) -> Layout {
    let (layers, count) = (sizes(&path()).expect("it is a model").layers, division.len());
    let bound = |stage: usize| stage * layers / count;
    let stage = |(stage, ranks): (usize, &usize)| StageLayout {
        layers: bound(stage)..bound(stage + 1),
        ranks: *ranks,
    };
    Layout::new(division.iter().enumerate().map(stage).collect()).expect("a layout")
}

/// Connects with the others.
fn meet(rank: usize) -> (Arc<dyn Transport>, Vec<PeerId>) {
    let config = TcpConfig::new(Security::Plain).bound_to(Ipv4Addr::LOCALHOST.into());
    let end = Tcp::new(&Domain::new(), config).expect("it starts on loopback");
    let id = u128::from_be_bytes(end.domain().id().to_bytes());
    println!("\npeer {id:032x} {}", end.addresses()[0].socket);
    let lines = std::io::stdin().lines().map(|line| line.expect("a roster"));
    let roster = lines.take_while(|line| !line.is_empty()).map(|line| {
        let (id, socket) = line.split_once(' ').expect("a name and an address");
        let id = u128::from_str_radix(id, 16).expect("32 hex digits");
        let address = Address { kind: Kind::Tcp, socket: socket.parse().expect("an address") };
        (PeerId::from_bytes(id.to_be_bytes()), address)
    });
    let roster: Vec<_> = roster.collect();
    let soon = Instant::now() + Duration::from_secs(30);
    for (at, (id, address)) in roster.iter().enumerate() {
        match at.cmp(&rank) {
            std::cmp::Ordering::Less => block_on(end.connect(*id, &[*address], soon)).expect("they connect"),
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => block_on(end.domain().connected(*id, soon)).expect("they connect"),
        }
    }
    (Arc::new(end), roster.into_iter().map(|(id, _)| id).collect())
}

/// Does what it is told on standard input.
fn lead(engine: &dyn Engine) {
    for task in std::io::stdin().lines() {
        match task.expect("a task").as_str() {
            "answers" => answers(engine),
            "endless" => endless(engine),
            "long" => long(engine),
            "" => continue,
            task => panic!("nobody knows how to {task}"),
        }
        println!("says end");
    }
}

fn request(at: usize, max_tokens: u32) -> Request {
    Request {
        id: at.to_string(),
        prompt: Prompt::Text(PROMPTS[at].to_owned()),
        sampling: SamplingParams::default(),
        limits: Limits { max_tokens: Some(max_tokens), ignore_eos: true, ..Limits::default() },
        turn: Turn::default(),
        answer: AnswerOptions::default(),
    }
}

/// All prompts at once.
fn answers(engine: &dyn Engine) {
    let (events, all) = mpsc::channel();
    for at in 0..PROMPTS.len() {
        let events = events.clone();
        engine.submit(request(at, 24), Box::new(move |event| drop(events.send((at, event)))));
    }
    drop(events);
    let mut said = vec![String::new(); PROMPTS.len()];
    for (at, event) in all {
        match event {
            Event::Delta(delta) => said[at].push_str(&delta.text),
            Event::Finished(finish) => said[at].push_str(&format!(" Finished({:?})", finish.reason)),
            Event::Failed(error) => said[at].push_str(&format!(" {error:?}")),
            Event::Started { .. } => {}
        }
    }
    for answer in said {
        println!("says {answer:?}");
    }
}

/// What `endless` begins with, as far as anybody has read.
fn long(engine: &dyn Engine) {
    let (events, all) = mpsc::channel();
    engine.submit(request(0, 1000), Box::new(move |event| drop(events.send(event))));
    let mut text = String::new();
    for event in all {
        match event {
            Event::Delta(delta) => text.push_str(&delta.text),
            Event::Finished(finish) => println!("says {:?} {text:?}", finish.reason),
            Event::Failed(error) => println!("says {error:?}"),
            Event::Started { .. } => {}
        }
    }
}

/// Says the first token, then how the request ends, and what was told of it before.
fn endless(engine: &dyn Engine) {
    let (events, all) = mpsc::channel();
    engine.submit(request(0, 2000), Box::new(move |event| drop(events.send(event))));
    let mut text = String::new();
    for event in all {
        match event {
            Event::Delta(delta) => {
                if text.is_empty() {
                    println!("says first token");
                }
                text.push_str(&delta.text);
            }
            Event::Failed(error) => println!("says {error:?} after {text:?}"),
            Event::Finished(finish) => println!("says {finish:?}"),
            Event::Started { .. } => {}
        }
    }
}
