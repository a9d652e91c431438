//! Peers that were let in and break the protocol: they are lost, nothing of theirs is counted, and others go on.

use std::io::{Read, Write};
use std::net::TcpStream;

use mlxcel_transport::core::hello::{ANSWER_BYTES, Hello};
use mlxcel_transport::core::{Header, Verb};
use mlxcel_transport::{PeerLoss, PeerState};

use super::*;
use crate::verbs::{CompletionQueue, Local, QueuePair, Registration, Remote, Rights, SendRequest, Work};
use crate::wire::{ADDRESS_BYTES, PacketHead, QueuePairAddress};

const BUFFERS: usize = 16;
const BUFFER_BYTES: usize = 4096;

/// A peer that says hello as it should, and then what it likes.
struct Rogue {
    qp: QueuePair,
    registration: Registration,
    // Dropped after what the device uses.
    memory: Memory,
    id: PeerId,
    _socket: TcpStream,
}

/// A transport with one peer that is as it should be, and one that is not.
struct Scene {
    pair: Pair,
    rogue: Rogue,
}

impl Rogue {
    fn met(victim: &Rdma) -> Self {
        let port = Arc::clone(&victim.shared.adapter.port);
        let channel = Arc::new(verbs::Channel::new(&port.device).expect("there is room"));
        let completions = CompletionQueue::new(&channel, 64).expect("there is room");
        let qp = QueuePair::new(&port, completions, 16, BUFFERS as u32).expect("there is room");
        let memory = Memory::zeroed(2 * BUFFERS * BUFFER_BYTES).expect("there is memory");
        let rights = Rights { read: false, write: false };
        // SAFETY: the memory is dropped last.
        let registration = unsafe { Registration::new(&port.device, memory.start(), memory.len(), rights) };
        let id = PeerId::random();
        let socket = TcpStream::connect(victim.addresses()[0].socket).expect("it listens");
        let registration = registration.expect("it is host memory");
        let rogue = Self { qp, registration, memory, id, _socket: socket.try_clone().expect("it is open") };
        for buffer in 0..BUFFERS {
            let local = rogue.local(BUFFERS + buffer, BUFFER_BYTES);
            // SAFETY: nobody looks at these buffers.
            unsafe { rogue.qp.post_receive(local, 0) }.expect("there is room");
        }
        let address = QueuePairAddress {
            number: rogue.qp.number(),
            packet: 77,
            gid: port.gid.bytes,
            lid: port.lid,
            mtu: port.mtu,
            reads: 1,
            buffers: BUFFERS as u16,
            buffer_bytes: BUFFER_BYTES as u32,
        };
        rogue.say_hello(socket, victim.domain().id(), &address);
        block_on(victim.domain().connected(id, soon())).expect("it is welcome");
        rogue
    }

    fn say_hello(&self, mut socket: TcpStream, to: PeerId, address: &QueuePairAddress) {
        let hello = Hello { from: self.id, to, incarnation: 1, known: None, rail: 0, rails: 1 };
        socket.write_all(&[&hello.to_bytes()[..], &address.to_bytes()].concat()).expect("sent");
        let mut answer = [0; ANSWER_BYTES + ADDRESS_BYTES];
        socket.read_exact(&mut answer).expect("it answers");
        let theirs = answer[ANSWER_BYTES..].first_chunk().expect("as long as an address");
        self.qp.connect(address, &QueuePairAddress::parse(theirs).expect("an address")).expect("connected");
        socket.write_all(&[1]).expect("sent");
    }

    fn local(&self, buffer: usize, len: usize) -> Local {
        let start = (self.memory.start().addr().get() + buffer * BUFFER_BYTES) as u64;
        Local { start, len: len as u32, key: self.registration.local_key() }
    }

    fn post(&self, work: Work, bytes: &[u8]) {
        assert!(bytes.len() <= BUFFERS * BUFFER_BYTES);
        // SAFETY: as many bytes are there, which the device does not write to.
        unsafe { self.memory.start().as_ptr().copy_from(bytes.as_ptr(), bytes.len()) };
        let request = SendRequest { work, local: self.local(0, bytes.len()), signalled: Some(1) };
        // SAFETY: the memory is dropped after the queue pair.
        unsafe { self.qp.post(&[request]) }.expect("there is room");
    }

    /// Sends a packet with this stream.
    fn send(&self, head: PacketHead, stream: &[u8]) {
        self.post(Work::Send, &[&head.to_bytes()[..], stream].concat());
    }
}

impl Scene {
    fn set() -> Self {
        let pair = Pair::connected();
        let rogue = Rogue::met(&pair.other);
        Self { pair, rogue }
    }

    /// How the rogue was lost, which it is soon.
    fn loss(&self) -> PeerLoss {
        let begun = Instant::now();
        let domain = self.pair.other.domain();
        loop {
            if let PeerState::Lost(why) = domain.peer_state(self.rogue.id) {
                return why;
            }
            assert!(begun.elapsed() < Duration::from_millis(1300), "it is not lost");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The other peer is there as before.
    fn others_go_on(&self) {
        let (from, to) = (&self.pair.one, self.pair.other.domain().id());
        assert_eq!(block_on(from.send(to, Channel(0), Bytes::from_static(b"hello"), soon())), Ok(()));
    }
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn packets_that_no_correct_peer_sends_lose_it() {
    let ack = Header::new(Verb::Ack, 900);
    let mut damaged = ack.encode();
    damaged[9] ^= 1;
    let fine = PacketHead::default();
    let packets: [(PacketHead, &[u8]); 5] = [
        (PacketHead { notes: 3, ..fine }, b"too short for its notes"),
        (PacketHead { notes: 1, ..fine }, &[0xFF; 40]),
        (PacketHead { credit: 1, ..fine }, b""),
        (PacketHead { written: true, ..fine }, &ack.encode()),
        (fine, &damaged),
    ];
    for (number, (head, stream)) in packets.into_iter().enumerate() {
        let scene = Scene::set();
        scene.rogue.send(head, stream);
        assert!(matches!(scene.loss(), PeerLoss::Protocol(_)), "packet {number}: {:?}", scene.loss());
        scene.others_go_on();
    }
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_packet_without_even_a_head_loses_its_peer() {
    let scene = Scene::set();
    scene.rogue.post(Work::Send, b"head");
    assert_eq!(scene.loss(), PeerLoss::Protocol("a packet is cut short"));
    scene.others_go_on();
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_packet_that_is_longer_than_a_buffer_breaks_its_connection_alone() {
    let scene = Scene::set();
    scene.rogue.post(Work::Send, &[0; 3 * BUFFER_BYTES]);
    assert_eq!(scene.loss(), PeerLoss::Broken);
    scene.others_go_on();
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_number_that_was_not_announced_loses_its_peer() {
    for number in [0, 5] {
        let scene = Scene::set();
        scene.rogue.post(Work::Write(Remote { start: 0, key: 0 }, Some(number)), b"");
        assert_eq!(scene.loss(), PeerLoss::Protocol("bytes came that were not announced"));
        scene.others_go_on();
    }
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn memory_that_a_peer_was_not_given_is_not_reached() {
    let scene = Scene::set();
    let secret = region(&scene.pair.other, 4096, Access::LOCAL);
    let readable = region(&scene.pair.other, 4096, Access::READ);
    let key = |region: &Region, access| {
        let registered = scene.pair.other.shared.adapter.reach.register(region.memory(), access);
        registered.expect("it is registered").remote_key()
    };
    let start = |region: &Region| region.memory().memory().start().addr().get() as u64;
    // Even whoever guesses the address and the device's key.
    let places = [
        Remote { start: start(&secret), key: key(&secret, Access::LOCAL) },
        Remote { start: start(&readable), key: key(&readable, Access::READ) },
        Remote { start: start(&secret), key: 0x1234_5678 },
    ];
    let mut rogues = vec![&scene.rogue];
    let others: Vec<Rogue> = (1..places.len()).map(|_| Rogue::met(&scene.pair.other)).collect();
    rogues.extend(&others);
    for (rogue, place) in rogues.iter().zip(places) {
        rogue.post(Work::Write(place, None), &[9; 4096]);
    }
    eventually("the loss of all", || scene.pair.other.domain().peers().len() == 1);
    assert!(contents(&secret) == vec![0; 4096] && contents(&readable) == vec![0; 4096]);
    scene.others_go_on();
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn a_peer_that_says_nothing_is_lost_within_a_second() {
    let scene = Scene::set();
    assert_eq!(scene.loss(), PeerLoss::Silent);
    scene.others_go_on();
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn callers_that_say_nothing_keep_nobody_waiting() {
    let end = plain();
    let mute = |_| TcpStream::connect(end.addresses()[0].socket).expect("it listens");
    let _mute: Vec<TcpStream> = (0..30).map(mute).collect();
    let begun = Instant::now();
    let other = plain();
    assert_eq!(connect(&other, &end), Ok(()));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
