//! A peer with a trusted key that does not keep to the protocol, or to nothing at all: a bare connection plays it.

use mlxcel_cluster_config::tls::{DataPlane, server_name};
use mlxcel_transport::core::hello::{ANSWER_BYTES, Answer, HELLO_BYTES, Hello, HelloError, Refusal};
use mlxcel_transport::{PeerLoss, PeerState};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::runtime::Runtime;

use super::*;
use crate::tuning::tuned;

/// A connection that has said hello.
struct Stranger {
    runtime: Runtime,
    id: PeerId,
    connection: Connection,
    control: SendStream,
    _answers: RecvStream,
    _endpoint: Endpoint,
}

/// Somewhere to call, and the key that is trusted there.
struct Victim {
    end: Quic,
    identity: Identity,
}

impl Victim {
    fn new() -> Self {
        let identity = Identity::generate().expect("generated");
        let trust = Trust::of([identity.fingerprint()]);
        Self { end: end_of(identity.clone(), &trust), identity }
    }

    /// Says something for a hello; what it is answered.
    fn hear(&self, from: PeerId, words: &[u8; HELLO_BYTES]) -> (Stranger, Result<Answer, HelloError>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let trust = Trust::of([self.identity.fingerprint()]);
        let config =
            tuned(&DataPlane::new(&self.identity, &trust, crate::start::ALPN), Duration::from_secs(1));
        let (stranger, answer) = runtime.block_on(async {
            let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
            let (to, name) = (self.end.addresses()[0].socket, server_name().to_str().into_owned());
            let connection = endpoint.connect_with(config.client, to, &name).expect("valid");
            let connection = connection.await.expect("trusted");
            let (mut control, mut answers) = connection.open_bi().await.expect("allowed");
            control.write_all(words).await.expect("sent");
            let mut answer = [0; ANSWER_BYTES];
            answers.read_exact(&mut answer).await.expect("answered");
            ((connection, control, answers, endpoint), Answer::parse(&answer))
        });
        let (connection, control, answers, endpoint) = stranger;
        let stranger =
            Stranger { runtime, id: from, connection, control, _answers: answers, _endpoint: endpoint };
        (stranger, answer)
    }

    fn call(&self, hello: impl FnOnce(Hello) -> Hello) -> (Stranger, Answer) {
        let (from, to) = (PeerId::random(), self.end.domain().id());
        let hello = hello(Hello { from, to, incarnation: 1, known: None, rail: 0, rails: 1 });
        let (stranger, answer) = self.hear(hello.from, &hello.to_bytes());
        (stranger, answer.expect("an answer"))
    }

    fn welcome(&self) -> Stranger {
        let (stranger, answer) = self.call(|hello| hello);
        assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
        block_on(self.end.domain().connected(stranger.id, soon())).expect("it is a peer now");
        stranger
    }

    /// How it came to lose a peer, and in what time.
    fn loss_of(&self, stranger: &Stranger) -> (PeerLoss, Duration) {
        let began = Instant::now();
        loop {
            if let PeerState::Lost(why) = self.end.domain().peer_state(stranger.id) {
                return (why, began.elapsed());
            }
            assert!(began.elapsed() < Duration::from_secs(5), "it is still connected");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Stranger {
    fn say(&mut self, bytes: &[u8]) {
        self.runtime.block_on(self.control.write_all(bytes)).expect("sent");
    }

    /// Opens a stream, and says something there; says that this was all.
    fn stream(&self, bytes: &[u8]) {
        self.runtime.block_on(async {
            let mut stream = self.connection.open_uni().await.expect("allowed");
            stream.write_all(bytes).await.expect("sent");
            stream.finish().expect("open");
        });
    }
}

/// A header of this verb that announces so many bytes, with a checksum.
fn header(verb: u8, payload: u32) -> Vec<u8> {
    let mut header = vec![0; 64];
    header[0] = verb;
    header[4..8].copy_from_slice(&payload.to_le_bytes());
    header[20] = 1;
    let sum = crc32fast::hash(&header[..56]);
    header[56..60].copy_from_slice(&sum.to_le_bytes());
    header
}

const DATA: u8 = 1;
const MESSAGE: u8 = 4;
const ALIVE: u8 = 9;

#[test]
fn a_peer_that_breaks_the_protocol_on_a_stream_is_lost() {
    let broken: &[(&str, Vec<u8>)] = &[
        ("garbage", vec![0x5a; 300]),
        ("less than a header", vec![1; 10]),
        ("a frame that is too large", header(MESSAGE, u32::MAX)),
        ("a message that is too long", [header(MESSAGE, 65_537), vec![0; 65_537]].concat()),
        ("a frame that is cut short", [header(MESSAGE, 100), vec![0; 10]].concat()),
        ("a frame that is longer than it says", [header(MESSAGE, 10), vec![0; 11]].concat()),
        ("a frame without payload", header(ALIVE, 0)),
        ("a slice without bytes", header(DATA, 0)),
        ("an unknown verb", header(99, 0)),
    ];
    for (what, bytes) in broken {
        let victim = Victim::new();
        let stranger = victim.welcome();
        stranger.stream(bytes);
        let (why, _) = victim.loss_of(&stranger);
        assert!(matches!(why, PeerLoss::Protocol(_)), "{what}: {why}");
    }
}

#[test]
fn a_peer_that_breaks_the_protocol_in_control_is_lost() {
    let broken: &[(&str, Vec<u8>)] =
        &[("garbage", vec![0x5a; 64]), ("a frame with payload", [header(MESSAGE, 64), vec![0; 64]].concat())];
    for (what, bytes) in broken {
        let victim = Victim::new();
        let mut stranger = victim.welcome();
        stranger.say(bytes);
        let (why, _) = victim.loss_of(&stranger);
        assert!(matches!(why, PeerLoss::Protocol(_)), "{what}: {why}");
    }
}

#[test]
fn a_slice_for_a_tag_that_is_not_open_is_dropped_and_the_link_lives() {
    let victim = Victim::new();
    let stranger = victim.welcome();
    stranger.stream(&[header(DATA, 100_000), vec![7; 100_000]].concat());
    stranger.stream(&[header(MESSAGE, 0), vec![]].concat());
    let message = block_on(victim.end.domain().receive(stranger.id, Channel(0), soon()));
    // Both are item 0: the second was dealt with, and is answered only.
    assert!(message.is_err(), "{message:?}");
}

#[test]
fn a_peer_that_says_nothing_more_is_lost_within_a_second() {
    let victim = Victim::new();
    let stranger = victim.welcome();
    let waiting = victim.end.domain().readable(stranger.id, Channel(0), soon());
    let (why, took) = victim.loss_of(&stranger);
    assert_eq!(why, PeerLoss::Silent);
    assert!(took < Duration::from_millis(1300), "{took:?}");
    assert_eq!(block_on(waiting), Err(OpError::PeerLost));
}

#[test]
fn a_peer_that_hangs_up_without_a_good_bye_is_lost_at_once() {
    let victim = Victim::new();
    let stranger = victim.welcome();
    stranger.connection.close(77_u32.into(), b"no reason");
    let (why, took) = victim.loss_of(&stranger);
    assert_eq!(why, PeerLoss::Broken);
    assert!(took < Duration::from_millis(800), "{took:?}");
}

#[test]
fn calls_for_another_process_and_of_another_release_are_refused() {
    let victim = Victim::new();
    let (_, answer) = victim.call(|hello| Hello { to: PeerId::random(), ..hello });
    assert_eq!(answer, Answer::Refused(Refusal::AnotherPeer));
    let (_, answer) = victim.hear(PeerId::random(), &[0x55; HELLO_BYTES]);
    assert!(matches!(answer, Ok(Answer::Refused(_))), "it is told something that names our version");
    assert_eq!(victim.end.domain().peers(), []);
}

#[test]
fn a_second_connection_of_a_link_is_refused_and_a_newer_link_replaces_it() {
    let victim = Victim::new();
    let stranger = victim.welcome();
    let again = |incarnation| {
        let id = stranger.id;
        victim.call(move |hello| Hello { from: id, incarnation, ..hello })
    };
    assert_eq!(again(1).1, Answer::Refused(Refusal::Unwelcome));
    let waiting = victim.end.domain().readable(stranger.id, Channel(0), soon());
    let (_renewed, answer) = again(2);
    assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
    assert_eq!(block_on(waiting), Err(OpError::PeerLost));
    assert_eq!(again(1).1, Answer::Refused(Refusal::Forgotten), "it comes too late");
}
