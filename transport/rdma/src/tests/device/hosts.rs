//! Two hosts: each runs one of these, and they find each other by the addresses they are told.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use mlxcel_transport::suite::process::{introduced, introduction};
use mlxcel_transport::{BatchBuilder, Key, PeerState};

use super::*;

/// Where the two hosts tell each other who they are.
const DESK: &str = "MLXCEL_TEST_RDMA_DESK";
const KEYS: Channel = Channel(9);
const SIZE: usize = 2 << 20;

fn desk() -> String {
    std::env::var(DESK).expect("the test is told where the other host is")
}

fn introduce(end: &Rdma, to: &mut TcpStream) {
    writeln!(to, "{}", introduction(end)).expect("the other host listens");
}

/// Not a test by itself: the host that is written to, and that is turned off in the end.
#[test]
#[ignore = "one of two hosts: ./x test --only rdma-hosts"]
fn answers() {
    let end = plain();
    let (mut other, _) =
        TcpListener::bind(desk()).and_then(|desk| desk.accept()).expect("the other host calls");
    introduce(&end, &mut other);
    let mut line = String::new();
    BufReader::new(&other).read_line(&mut line).expect("it says who it is");
    let (id, _) = introduced(&end, &line);
    let target = region(&end, SIZE, Access::READ_WRITE);
    let counter = end.domain().expect(Tag::new(1), &[id]).expect("the tag is free");
    block_on(end.domain().connected(id, soon())).expect("it connects");
    block_on(end.send(id, KEYS, target.key().to_bytes().into(), soon())).expect("sent");
    assert_eq!(block_on(counter.reached(3, soon())), Ok(()));
    assert!(contents(&target) == pattern(SIZE, 3), "what was written last is there");
    let message = block_on(end.domain().receive(id, Channel(1), soon())).expect("it came");
    assert_eq!(message, pattern(60_000, 1));
    let well = end.send(id, Channel(2), Bytes::from_static(b"well"), soon());
    assert_eq!(block_on(well), Ok(()));
    // Its power is cut by whoever started this host: no socket is closed, nothing is said.
    std::thread::sleep(Duration::from_secs(60));
}

/// The host that writes, reads, and loses its peer.
#[test]
#[ignore = "one of two hosts: ./x test --only rdma-hosts"]
fn calls() {
    let end = plain();
    let deadline = soon() + Duration::from_secs(20);
    let mut other = loop {
        match TcpStream::connect(desk()) {
            Ok(other) => break other,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    introduce(&end, &mut other);
    let mut line = String::new();
    BufReader::new(&other).read_line(&mut line).expect("it says who it is");
    let (id, address) = introduced(&end, &line);
    block_on(end.connect(id, &[address], soon())).expect("they connect");
    let key = block_on(end.domain().receive(id, KEYS, soon())).expect("it gives a key");
    let key = Key::from_bytes(&key).expect("a key");
    let source = region(&end, SIZE, Access::LOCAL);
    for round in 1..=3_u8 {
        source.write_at(0, &pattern(SIZE, round));
        let mut batch = BatchBuilder::default();
        let names = batch.pair(&source, &key);
        let page = SIZE as u64 / 16;
        batch.pages(names, (0..16).rev().map(|at| (at * page, at * page)), page);
        let begun = Instant::now();
        assert_eq!(block_on(end.write(&batch.build().expect("it fits"), Tag::new(1), soon())), Ok(()));
        println!("{SIZE} bytes there in {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    }
    let back = region(&end, SIZE, Access::LOCAL);
    let read = Batch::single((&back, 0), (&key, 0), SIZE as u64).expect("it fits");
    assert_eq!(block_on(end.read(&read, soon())), Ok(()));
    assert!(contents(&back) == pattern(SIZE, 3));
    let sent = block_on(end.send(id, Channel(1), pattern(60_000, 1).into(), soon()));
    assert_eq!(sent, Ok(()));
    let well = block_on(end.domain().receive(id, Channel(2), soon()));
    assert_eq!(well.expect("the other host found everything"), "well");
    println!("the other's power may be cut");
    lose(&end, id, &source, &key);
}

/// Writes until the other host is gone, which is noticed within a second of the last that went well.
fn lose(end: &Rdma, id: PeerId, source: &Region, key: &Key) {
    let batch = Batch::single((source, 0), (key, 0), 4096).expect("it fits");
    let mut well = Instant::now();
    loop {
        match block_on(end.write(&batch, Tag::new(1), soon())) {
            Ok(()) => well = Instant::now(),
            Err(error) => {
                println!("{error}, {:.2} s after the last word", well.elapsed().as_secs_f64());
                assert_eq!(error, OpError::PeerLost);
                break;
            }
        }
    }
    assert!(well.elapsed() < Duration::from_millis(1300), "{:?}", well.elapsed());
    assert!(matches!(end.domain().peer_state(id), PeerState::Lost(_)));
}
