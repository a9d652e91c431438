//! A peer that does not keep to the protocol, or to nothing at all: a plain socket plays it.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;
use crate::core::hello::{ANSWER_BYTES, Answer, Hello, Refusal};
use crate::{PeerLoss, PeerState};

/// A socket that has said hello to a transport without protection.
struct Stranger {
    id: PeerId,
    socket: TcpStream,
}

impl Stranger {
    /// Says hello; what it is answered.
    fn call(to: &Tcp, hello: impl FnOnce(Hello) -> Hello) -> (Self, Answer) {
        let from = PeerId::random();
        let plain = Hello { from, to: to.domain().id(), incarnation: 1, known: None, rail: 0, rails: 1 };
        let mut socket = TcpStream::connect(to.addresses()[0].socket).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid time");
        socket.write_all(&hello(plain).to_bytes()).expect("sent");
        let mut answer = [0; ANSWER_BYTES];
        socket.read_exact(&mut answer).expect("answered");
        (Self { id: from, socket }, Answer::parse(&answer).expect("an answer"))
    }

    fn welcome(at: &Tcp) -> Self {
        let (stranger, answer) = Self::call(at, |hello| hello);
        assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
        block_on(at.domain().connected(stranger.id, soon())).expect("it is a peer now");
        stranger
    }

    /// How the transport came to lose it, and in what time.
    fn lost_by(&self, at: &Tcp) -> (PeerLoss, Duration) {
        let began = Instant::now();
        loop {
            if let PeerState::Lost(why) = at.domain().peer_state(self.id) {
                return (why, began.elapsed());
            }
            assert!(began.elapsed() < Duration::from_secs(5), "it is still connected");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Every way that a stranger without a key gets into.
fn each(test: impl Fn(&Tcp, &str)) {
    for way in WAYS.iter().filter(|way| !way.encrypted) {
        test(&way.end(&Trust::default()), &format!("{way:?}"));
    }
}

#[test]
fn a_header_that_is_not_whole_loses_the_peer() {
    each(|end, way| {
        let mut stranger = Stranger::welcome(end);
        stranger.socket.write_all(&[0x5a; 64]).expect("sent");
        let (why, _) = stranger.lost_by(end);
        assert!(matches!(why, PeerLoss::Protocol(_)), "{way}: {why}");
    });
}

#[test]
fn a_frame_that_is_too_large_loses_the_peer_before_it_comes() {
    each(|end, way| {
        let mut stranger = Stranger::welcome(end);
        let mut header = [0; 64];
        header[0] = 4;
        header[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let sum = crc32fast::hash(&header[..56]);
        header[56..60].copy_from_slice(&sum.to_le_bytes());
        stranger.socket.write_all(&header).expect("sent");
        let (why, _) = stranger.lost_by(end);
        assert!(matches!(why, PeerLoss::Protocol(_)), "{way}: {why}");
    });
}

#[test]
fn a_peer_that_says_nothing_more_is_lost_within_a_second() {
    each(|end, way| {
        let stranger = Stranger::welcome(end);
        let waiting = end.domain().readable(stranger.id, Channel(0), soon());
        let (why, took) = stranger.lost_by(end);
        assert_eq!(why, PeerLoss::Silent, "{way}");
        assert!(took < Duration::from_millis(1200), "{way}: {took:?}");
        assert_eq!(block_on(waiting), Err(OpError::PeerLost));
    });
}

#[test]
fn a_peer_whose_connections_all_broke_is_lost_within_a_second() {
    each(|end, way| {
        let stranger = Stranger::welcome(end);
        stranger.socket.shutdown(std::net::Shutdown::Both).expect("it is open");
        let (why, took) = stranger.lost_by(end);
        assert_eq!(why, PeerLoss::Broken, "{way}");
        assert!(took < Duration::from_millis(1200), "{way}: {took:?}");
    });
}

#[test]
fn calls_for_another_process_and_for_forgotten_links_are_refused() {
    each(|end, way| {
        let (_, answer) = Stranger::call(end, |hello| Hello { to: PeerId::random(), ..hello });
        assert_eq!(answer, Answer::Refused(Refusal::AnotherPeer), "{way}");
        let (_, answer) = Stranger::call(end, |hello| Hello { known: Some(7), ..hello });
        assert_eq!(answer, Answer::Refused(Refusal::Forgotten), "{way}");
        assert_eq!(end.domain().peers(), []);
    });
}

#[test]
fn an_end_that_began_anew_replaces_the_link_it_lost() {
    each(|end, way| {
        let stranger = Stranger::welcome(end);
        let again = |hello| Hello { from: stranger.id, incarnation: 2, ..hello };
        let waiting = end.domain().readable(stranger.id, Channel(0), soon());
        let (_renewed, answer) = Stranger::call(end, again);
        assert!(matches!(answer, Answer::Accepted { .. }), "{way}: {answer:?}");
        assert_eq!(block_on(waiting), Err(OpError::PeerLost), "{way}");
        let (_, answer) = Stranger::call(end, |hello| Hello { from: stranger.id, ..hello });
        assert_eq!(answer, Answer::Refused(Refusal::Forgotten), "{way}: an older one comes too late");
    });
}
