//! Prefixes that one node computes and another has: real engines, each in a worker process, over TCP.

use std::path::PathBuf;
use std::time::Duration;

use mlxcel_node::{Node, RunningNode};
use mlxcel_protocol::v1::move_prefix_event::Kind as Said;
use mlxcel_protocol::v1::move_prefix_request::Kind as Told;
use mlxcel_protocol::v1::{
    Failure, FailureKind, Finished, GenerateRequest, LoadModelRequest, MovePrefixEvent, MovePrefixRequest,
    PrefixTaken, PrefixTarget, PrefixWritten, ReceivePrefix, SendPrefix, TokenPrompt, TransferEnd,
    generate_event, generate_request,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::support::{Bench, LONG, Router, signal, until};

/// A prompt of two thousand tokens on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// A node with a real engine, and the router that has claimed it.
struct Host {
    // First, so that the node ends before its directory goes.
    node: RunningNode,
    router: Router,
    _bench: Bench,
}

impl Host {
    async fn start() -> Self {
        Self::loading(LoadModelRequest::default()).await
    }

    /// Loads SmolLM2 as `m`, as `request` says otherwise.
    async fn loading(request: LoadModelRequest) -> Self {
        let bench = Bench::new();
        let mut options = bench.options();
        options.workers = vec![bench.worker(&["--mlx"])];
        let node = Node::start(options).await.expect("node starts");
        let mut router = Router::claiming(&node).await;
        let model = std::env::var("MLXCEL_TEST_SMOLLM2").map(PathBuf::from);
        let model = model.expect("MLXCEL_TEST_SMOLLM2 names the default model's file; `./x test` sets it");
        let model = model.to_str().expect("UTF-8").to_owned();
        let request = LoadModelRequest { model, served_name: "m".into(), ..request };
        router.load_with(request).await.expect("SmolLM2 loads");
        Self { node, router, _bench: bench }
    }

    fn worker(&self) -> u32 {
        self.node.state().workers[0].pid
    }

    /// Moves under way in its worker: each has a thread.
    fn moves(&self) -> usize {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.worker())).expect("the worker runs");
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
        };
        tasks.filter_map(name).filter(|name| name.trim() == "prefix-move").count()
    }

    async fn answer(&mut self, prompt: &[u32]) -> (Vec<u32>, Finished) {
        let asked = self.router.client.generate(request(prompt)).await;
        let mut events = asked.expect("admitted").into_inner();
        let mut tokens = Vec::new();
        loop {
            let event = timeout(PATIENCE, events.message()).await.expect("in time").expect("a stream");
            match event.expect("an end").kind.expect("a kind") {
                generate_event::Kind::Started(_) => {}
                generate_event::Kind::Delta(delta) => {
                    tokens.extend(delta.choices.into_iter().flat_map(|choice| choice.token_ids));
                }
                generate_event::Kind::Finished(finished) => return (tokens, finished),
                generate_event::Kind::Failed(failure) => panic!("{}", failure.message),
            }
        }
    }

    async fn talk(&mut self, first: Told) -> Talk {
        let (told, requests) = mpsc::channel(4);
        told.send(MovePrefixRequest { kind: Some(first) }).await.expect("there is room");
        let opened = self.router.client.move_prefix(ReceiverStream::new(requests)).await;
        Talk { told, said: opened.expect("admitted").into_inner() }
    }
}

/// A conversation about one end of a move.
struct Talk {
    told: mpsc::Sender<MovePrefixRequest>,
    said: Streaming<MovePrefixEvent>,
}

impl Talk {
    async fn tell(&self, kind: Told) {
        self.told.send(MovePrefixRequest { kind: Some(kind) }).await.expect("there is room");
    }

    async fn next(&mut self) -> Result<Said, Failure> {
        let said = timeout(PATIENCE, self.said.message()).await.expect("in time").expect("a stream");
        match said.expect("an end").kind.expect("a kind") {
            Said::Failed(failure) => Err(failure),
            said => Ok(said),
        }
    }
}

fn request(prompt: &[u32]) -> GenerateRequest {
    GenerateRequest {
        request_id: "r".into(),
        model: "m".into(),
        prompt: Some(generate_request::Prompt::Tokens(TokenPrompt { ids: prompt.to_vec() })),
        max_tokens: 16,
        ignore_eos: true,
        ..GenerateRequest::default()
    }
}

fn prompt(tokens: u32) -> Vec<u32> {
    (0..tokens).map(|at| 1000 + (at * 37 + at * at * 11) % 20_000).collect()
}

fn send() -> Told {
    Told::Send(SendPrefix { model: "m".into(), deadline_micros: 0 })
}

fn receive(prompt: &[u32], sender: TransferEnd) -> Told {
    Told::Receive(ReceivePrefix { request: Some(request(prompt)), sender: Some(sender), deadline_micros: 0 })
}

/// A move of which both ends have been begun.
struct Move {
    sender: Talk,
    receiver: Talk,
    target: PrefixTarget,
}

impl Move {
    async fn begin(from: &mut Host, to: &mut Host, prompt: &[u32]) -> Result<Self, Failure> {
        let mut sender = from.talk(send()).await;
        let Said::End(end) = sender.next().await? else { panic!("a sender says where it is") };
        let mut receiver = to.talk(receive(prompt, end)).await;
        let Said::Target(target) = receiver.next().await? else { panic!("the prefix is wanted") };
        Ok(Self { sender, receiver, target })
    }

    async fn order(&self) {
        self.sender.tell(Told::Target(self.target.clone())).await;
    }

    async fn written(&mut self) -> Result<PrefixWritten, Failure> {
        match self.sender.next().await? {
            Said::Written(written) => Ok(written),
            other => panic!("{other:?}"),
        }
    }

    async fn taken(&mut self, written: PrefixWritten) -> Result<PrefixTaken, Failure> {
        self.receiver.tell(Told::Written(written)).await;
        match self.receiver.next().await? {
            Said::Taken(taken) => Ok(taken),
            other => panic!("{other:?}"),
        }
    }

    async fn whole(from: &mut Host, to: &mut Host, prompt: &[u32]) -> (PrefixWritten, PrefixTaken) {
        let mut one = Self::begin(from, to, prompt).await.expect("it can be moved");
        one.order().await;
        let written = one.written().await.expect("it is computed and written");
        let taken = one.taken(written).await.expect("it is taken over");
        (written, taken)
    }
}

#[tokio::test]
async fn an_answer_behind_a_moved_prefix_is_that_of_one_node() {
    let (mut alone, mut prefill, mut decode) =
        (Host::start().await, Host::start().await, Host::start().await);
    let prompt = prompt(1500);
    let (expected, finished) = alone.answer(&prompt).await;
    assert_eq!((expected.len(), finished.cached_tokens), (16, 0));
    let (written, taken) = Move::whole(&mut prefill, &mut decode, &prompt).await;
    assert_eq!(taken.tokens, 46 * 32);
    // 30 layers of 3 heads of 64 f32 values, keys and values.
    assert_eq!(written.bytes, 46 * 32 * 30 * 3 * 64 * 4 * 2);
    let share = written.bytes_while_computing as f64 / written.bytes as f64;
    eprintln!("{written:?}, {taken:?}: {:.1}% moved while computing", 100.0 * share);
    assert!(share > 0.0, "layers move while the next are computed");
    let (tokens, finished) = decode.answer(&prompt).await;
    assert_eq!((tokens, finished.cached_tokens), (expected, 46 * 32));
    // What is there already is not moved again.
    let mut sender = prefill.talk(send()).await;
    let Said::End(end) = sender.next().await.expect("it can send") else { panic!("an end") };
    let said = decode.talk(receive(&prompt, end)).await.next().await;
    assert_eq!(said, Ok(Said::Taken(PrefixTaken::default())));
}

#[tokio::test]
async fn a_sender_killed_in_the_middle_costs_time_and_nothing_else() {
    let (mut prefill, mut decode) = (Host::start().await, Host::start().await);
    let prompt = prompt(1000);
    let worker = prefill.worker();
    let mut one = Move::begin(&mut prefill, &mut decode, &prompt).await.expect("it can be moved");
    assert_eq!((prefill.moves(), decode.moves()), (1, 1));
    one.order().await;
    sleep(Duration::from_millis(300)).await;
    signal(worker, "KILL");
    assert_eq!(one.written().await.expect_err("it is dead").kind(), FailureKind::WorkerLost);
    // Nobody says that all has been written; the receiver knows by itself that it will not be.
    let failure = one.receiver.next().await.expect_err("the sender is dead");
    assert_eq!((failure.kind(), failure.message.contains("was lost")), (FailureKind::WorkerLost, true));
    let (tokens, finished) = decode.answer(&prompt).await;
    assert_eq!(finished.cached_tokens, 0, "computed where it is wanted");
    assert_eq!(decode.moves(), 0, "nothing is left of the move");
    // The worker that takes the dead one's place is as good a sender.
    prefill.router.worker_after(worker).await;
    assert_eq!(prefill.answer(&prompt).await.0, tokens);
    let other: Vec<u32> = prompt.iter().rev().copied().collect();
    assert_eq!(Move::whole(&mut prefill, &mut decode, &other).await.1.tokens, 31 * 32);
}

#[tokio::test]
async fn a_sender_that_stands_still_is_lost_to_the_receiver_at_once() {
    let (mut prefill, mut decode) = (Host::start().await, Host::start().await);
    let prompt = prompt(1500);
    let mut one = Move::begin(&mut prefill, &mut decode, &prompt).await.expect("it can be moved");
    one.order().await;
    sleep(Duration::from_millis(300)).await;
    signal(prefill.worker(), "STOP");
    let stopped = Instant::now();
    let failure = one.receiver.next().await.expect_err("the sender says nothing");
    assert_eq!(failure.kind(), FailureKind::WorkerLost);
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    signal(prefill.worker(), "CONT");
    assert_eq!(decode.answer(&prompt[..64]).await.1.cached_tokens, 0);
}

#[tokio::test]
async fn a_receiver_killed_in_the_middle_is_noticed_and_the_sender_serves_on() {
    let (mut prefill, mut decode) = (Host::start().await, Host::start().await);
    let prompt = prompt(1000);
    let mut one = Move::begin(&mut prefill, &mut decode, &prompt).await.expect("it can be moved");
    one.order().await;
    sleep(Duration::from_millis(300)).await;
    signal(decode.worker(), "KILL");
    assert_eq!(one.written().await.expect_err("nobody takes it").kind(), FailureKind::WorkerLost);
    assert_eq!(prefill.answer(&prompt[..100]).await.0.len(), 16);
    until("the move has ended", LONG, || prefill.moves() == 0).await;
    let idle = || prefill.node.state().workers[0].models[0].running == 0;
    until("the prefix is no longer computed", LONG, idle).await;
}

#[tokio::test]
async fn moves_whose_callers_go_away_leave_nothing() {
    let (mut prefill, mut decode) = (Host::start().await, Host::start().await);
    let prompt = prompt(600);
    // More than may be under way at a time.
    for round in 0..20 {
        let one = Move::begin(&mut prefill, &mut decode, &prompt).await.expect("there is room again");
        if round % 2 == 0 {
            one.order().await;
        }
        sleep(Duration::from_millis(20)).await;
        drop(one);
    }
    until("the moves have ended", LONG, || prefill.moves() + decode.moves() == 0).await;
    let (written, taken) = Move::whole(&mut prefill, &mut decode, &prompt).await;
    assert_eq!((taken.tokens, written.batches > 0), (18 * 32, true));
    assert_eq!(decode.answer(&prompt).await.1.cached_tokens, 18 * 32);
}

#[tokio::test]
async fn a_receiver_that_hears_of_too_few_batches_takes_nothing_over() {
    let (mut prefill, mut decode) = (Host::start().await, Host::start().await);
    let prompt = prompt(200);
    let mut one = Move::begin(&mut prefill, &mut decode, &prompt).await.expect("it can be moved");
    let failure = one.taken(PrefixWritten { batches: 30, ..PrefixWritten::default() }).await;
    assert!(failure.expect_err("nothing has arrived").message.contains("0 of the 30 batches"));
    assert_eq!(decode.answer(&prompt).await.1.cached_tokens, 0);
}

#[tokio::test]
async fn other_weights_under_the_same_name_are_refused() {
    let quantised = LoadModelRequest { kv_dtype: "f16".into(), ..LoadModelRequest::default() };
    let (mut prefill, mut halves) = (Host::start().await, Host::loading(quantised).await);
    let prompt = prompt(100);
    // Stored otherwise is converted on the way.
    assert_eq!(Move::whole(&mut prefill, &mut halves, &prompt).await.1.tokens, 96);
    let other: Vec<u32> = prompt.iter().rev().copied().collect();
    let mut one = Move::begin(&mut halves, &mut prefill, &other).await.expect("it can be begun");
    let mut landing: serde_json::Value =
        serde_json::from_slice(&one.target.landing).expect("a landing is JSON");
    landing["description"]["model"][0] =
        ((landing["description"]["model"][0].as_u64().expect("a byte") + 1) % 256).into();
    one.target.landing = serde_json::to_vec(&landing).expect("it is JSON");
    one.order().await;
    let failure = one.written().await.expect_err("the weights differ");
    assert_eq!(failure.kind(), FailureKind::InvalidRequest);
    assert!(failure.message.contains("same weights"), "{}", failure.message);
}

#[tokio::test]
async fn what_is_no_move_is_refused_by_name() {
    let bench = Bench::new();
    let (node, mut router) = bench.start_with_model().await;
    let mut refusal = async |first: Told| {
        let (told, requests) = mpsc::channel(1);
        told.send(MovePrefixRequest { kind: Some(first) }).await.expect("there is room");
        let said = router.client.move_prefix(ReceiverStream::new(requests)).await.expect("admitted");
        Talk { told, said: said.into_inner() }.next().await.expect_err("it is no move")
    };
    for (first, rule) in [
        (send(), "prefixes of this model cannot be moved"),
        (Told::Send(SendPrefix { model: "other".into(), deadline_micros: 0 }), "other is not loaded"),
        (Told::Target(PrefixTarget::default()), "begins with `send` or `receive`"),
        (Told::Receive(ReceivePrefix::default()), "begins with `send` or `receive`"),
    ] {
        let failure = refusal(first).await;
        assert!(failure.message.contains(rule), "{}", failure.message);
    }
    drop(node);
    let mut options = bench.options();
    options.state_dir = bench.path("standalone");
    options.standalone = true;
    let node = Node::start(options).await.expect("node starts");
    let mut router = Router::claiming(&node).await;
    let (told, requests) = mpsc::channel(1);
    told.send(MovePrefixRequest { kind: Some(send()) }).await.expect("there is room");
    let said = router.client.move_prefix(ReceiverStream::new(requests)).await.expect("admitted");
    let failure = Talk { told, said: said.into_inner() }.next().await.expect_err("it stands alone");
    assert!(failure.message.contains("standalone"), "{}", failure.message);
}
