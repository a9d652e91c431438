//! How fast TCP is between two processes of this host.
//!
//! `tcp_speed [poll|io-uring] [plain|tls] [rails]` starts itself again as the peer and prints medians: bulk writes in
//! GB/s, and a small write with its acknowledgement in microseconds, with ends that spin and with ends that sleep.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::executor::block_on;
use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::Trust;
use mlxcel_transport::tcp::{Driver, Security, Tcp, TcpConfig};
use mlxcel_transport::{
    Access, Address, Batch, BatchBuilder, Channel, Domain, Key, Kind, Memory, Op, PeerId, Tag, Transport,
    TransportExt,
};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let word = |at: usize| arguments.get(at).map_or("", String::as_str);
    let driver = match word(0) {
        "poll" => Driver::Poll,
        "io-uring" => Driver::IoUring,
        _ => Driver::Auto,
    };
    let encrypted = word(1) == "tls";
    let rails = word(2).parse().unwrap_or(2);
    if word(3) == "peer" {
        return serve(&end(driver, encrypted, rails));
    }
    let mut peer = Command::new(env::current_exe().expect("a program has a path"));
    peer.args([word(0), word(1), &rails.to_string(), "peer"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut peer = peer.spawn().expect("it starts again");
    let end = end(driver, encrypted, rails);
    println!("{:?}, {}, {rails} rails", end.driver(), if encrypted { "TLS" } else { "plain" });
    let mut to_peer = peer.stdin.take().expect("piped");
    writeln!(to_peer, "{} {}", u128::from_be_bytes(end.domain().id().to_bytes()), end.addresses()[0].socket)
        .expect("the peer listens");
    let line = BufReader::new(peer.stdout.take().expect("piped")).lines().next().expect("it answers");
    let (id, address) = parse(&line.expect("it answers"));
    block_on(end.connect(id, &[address], soon())).expect("it listens");
    measure(&end, id);
    drop(to_peer);
    peer.wait().expect("it ends");
}

fn end(driver: Driver, encrypted: bool, rails: u16) -> Tcp {
    let security = if encrypted {
        // Both ends are one host: one identity, kept where both find it.
        let identity =
            Identity::load_or_create(&env::temp_dir().join("mlxcel-tcp-speed")).expect("an identity");
        let trust = Trust::of([identity.fingerprint()]);
        Security::Tls { identity, trust }
    } else {
        Security::Plain
    };
    let config = TcpConfig { driver, rails, ..TcpConfig::new(security) };
    Tcp::new(&Domain::new(), config.bound_to(Ipv4Addr::LOCALHOST.into())).expect("it starts")
}

fn serve(end: &Tcp) {
    println!("{} {}", u128::from_be_bytes(end.domain().id().to_bytes()), end.addresses()[0].socket);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("it is told");
    let (peer, _) = parse(&line);
    let target = end.register(Memory::zeroed(SIZE).expect("memory"), Access::WRITE).expect("host memory");
    let counter = end.domain().expect(TAG, &[peer]).expect("free");
    block_on(end.domain().connected(peer, soon())).expect("it connects");
    let key = Bytes::from(target.key().to_bytes());
    block_on(end.send(peer, KEYS, key, soon())).expect("sent");
    // Each word of the peer says how many batches come next, and whether to spin.
    while let Ok(word) = block_on(end.domain().receive(peer, ORDERS, soon())) {
        let count = u64::from_le_bytes(word[..8].try_into().expect("eight bytes"));
        let all = counter.reached(counter.count() + count, soon());
        let spin = if word[8] == 1 { Duration::from_secs(9) } else { Duration::ZERO };
        if end.wait_spinning(all, spin).is_err() {
            return;
        }
    }
}

fn measure(end: &Tcp, peer: PeerId) {
    let source = end.register(Memory::zeroed(SIZE).expect("memory"), Access::LOCAL).expect("host memory");
    source.write_at(0, &vec![7; SIZE]);
    let key = block_on(end.domain().receive(peer, KEYS, soon())).expect("it sends its key");
    let key = Key::from_bytes(&key).expect("a key");
    let batch = |at: usize, len: usize| {
        let mut batch = BatchBuilder::default();
        let pair = batch.pair(&source, &key);
        batch.run(pair, at as u64, at as u64, len as u64);
        batch.build().expect("it fits")
    };
    for (count, len) in [(16, 1 << 20), (128, 64 << 10), (1, 16 << 20)] {
        let batches: Vec<Batch> = (0..count).map(|number| batch(number * len, len)).collect();
        let seconds = median(ROUNDS, || {
            order(end, peer, count as u64, false);
            let began = Instant::now();
            let ops: Vec<Op> = batches.iter().map(|batch| end.write(batch, TAG, soon())).collect();
            for op in ops {
                end.wait(op).expect("written");
            }
            began.elapsed()
        });
        println!("{count} x {} KiB: {:.2} GB/s", len >> 10, (count * len) as f64 / seconds / 1e9);
    }
    let small = batch(0, 4096);
    for spins in [true, false] {
        order(end, peer, 1 + SMALL as u64, spins);
        let wait = if spins { Duration::from_secs(9) } else { Duration::ZERO };
        end.wait(end.write(&small, TAG, soon())).expect("written");
        let seconds = median(SMALL, || {
            let began = Instant::now();
            end.wait_spinning(end.write(&small, TAG, soon()), wait).expect("written");
            began.elapsed()
        });
        println!("4 KiB, {}: {:.1} us", if spins { "spinning" } else { "sleeping" }, seconds * 1e6);
    }
}

fn order(end: &Tcp, peer: PeerId, count: u64, spin: bool) {
    let mut word = count.to_le_bytes().to_vec();
    word.push(u8::from(spin));
    block_on(end.send(peer, ORDERS, word.into(), soon())).expect("sent");
}

fn median(rounds: usize, mut once: impl FnMut() -> Duration) -> f64 {
    let mut times: Vec<Duration> = (0..rounds).map(|_| once()).collect();
    times.sort_unstable();
    times[rounds / 2].as_secs_f64()
}

fn parse(line: &str) -> (PeerId, Address) {
    let (id, socket) = line.trim().split_once(' ').expect("two words");
    let id = PeerId::from_bytes(id.parse::<u128>().expect("a number").to_be_bytes());
    (id, Address { kind: Kind::Tcp, socket: socket.parse::<SocketAddr>().expect("an address") })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

const TAG: Tag = Tag::new(1);
const KEYS: Channel = Channel(0);
const ORDERS: Channel = Channel(1);
const SIZE: usize = 16 << 20;
const ROUNDS: usize = 40;
const SMALL: usize = 5000;
