use std::sync::Arc;

use mlxcel_transport::core::LinkConfig;
use mlxcel_transport::{Access, Batch, Channel, Domain, Memory, Op, PeerId, Region, Tag};
use proptest::prelude::*;

use super::super::flow::Flow;
use super::*;

/// Two links, and the stream of frames from one to the other.
struct Pair {
    here: Arc<Domain>,
    there: Arc<Domain>,
    from: Link,
    to: Link,
    inbound: Inbound,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let (here, there) =
            (Domain::with_manual_clock(PeerId::random()), Domain::with_manual_clock(PeerId::random()));
        let now = Instant::now();
        let link = |of: &Arc<Domain>, peer: PeerId| {
            let mut link = Link::new(Arc::clone(of), peer, LinkConfig::default(), now);
            link.rail_up(RAIL, now);
            link
        };
        let (from, to) = (link(&here, there.id()), link(&there, here.id()));
        Self { here, there, from, to, inbound: Inbound::default(), now }
    }

    fn write(&mut self, source: &Region, target: &Region) -> Op {
        let batch = Batch::single((source, 0), (&target.key(), 0), source.len() as u64).expect("it fits");
        let (op, done) = Op::pending();
        self.from.write(&batch, Tag::new(1), done);
        op
    }

    /// All frames there are, as one stream.
    fn stream(&mut self) -> Vec<u8> {
        let mut stream = Vec::new();
        while let Some(frame) = self.from.next_frame(RAIL, self.now) {
            let mut bytes = vec![0; frame.len()];
            let mut flow = Flow::new(frame).expect("nothing has ended");
            assert_eq!(flow.copy(&mut bytes), bytes.len());
            stream.extend(bytes);
        }
        stream
    }

    /// What the other end has to say to this one.
    fn answer(&mut self) {
        while let Some(frame) = self.to.next_frame(RAIL, self.now) {
            let (header, runs) = frame.head.split_first_chunk().expect("a frame has a header");
            let head = Head::parse(Header::parse(header).expect("correct"), runs).expect("correct");
            let placement = self.from.receive(RAIL, &head, self.now).expect("correct");
            self.from.placed(RAIL, placement, None, self.now).expect("correct");
        }
    }
}

fn region(of: &Arc<Domain>, bytes: &[u8]) -> Region {
    let region = of.register(Memory::zeroed(bytes.len()).expect("there is memory"), Access::WRITE);
    region.write_at(0, bytes);
    region
}

fn contents(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len()];
    region.read_at(0, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn frames_are_understood_wherever_packets_cut_them(
        bytes in prop::collection::vec(any::<u8>(), 1..3000),
        message in prop::collection::vec(any::<u8>(), 0..500),
        cuts in prop::collection::vec(1_usize..700, 1..20),
    ) {
        let mut pair = Pair::new();
        let (source, target) = (region(&pair.here, &bytes), region(&pair.there, &vec![0; bytes.len()]));
        let counter = pair.there.expect(Tag::new(1), &[pair.here.id()]).expect("the tag is free");
        let (said, done) = Op::pending();
        pair.from.send(Channel(3), message.clone().into(), done);
        let written = pair.write(&source, &target);
        let stream = pair.stream();
        let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (packet, more) = rest.split_at((*cuts.next().expect("there are some")).min(rest.len()));
            pair.inbound.take(&mut pair.to, packet, false, pair.now).expect("correct");
            rest = more;
        }
        pair.answer();
        prop_assert_eq!((said.outcome(), written.outcome()), (Some(Ok(())), Some(Ok(()))));
        prop_assert_eq!(counter.count(), 1);
        prop_assert_eq!(contents(&target), bytes);
        let arrived = pair.there.try_receive(pair.here.id(), Channel(3));
        prop_assert_eq!(arrived.as_deref(), Some(&message[..]));
    }

    #[test]
    fn no_bytes_of_a_peer_bring_it_down(
        packets in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 0..6),
    ) {
        let mut pair = Pair::new();
        for (packet, written) in packets {
            if pair.inbound.take(&mut pair.to, &packet, written, pair.now).is_err() {
                break;
            }
        }
    }
}

/// The frame of a write as the peer's device would bring it: its head in a packet.
fn announced(pair: &mut Pair) -> Region {
    let (source, target) = (region(&pair.here, &[7; 900]), region(&pair.there, &[0; 900]));
    pair.write(&source, &target);
    let frame = pair.from.next_frame(RAIL, pair.now).expect("there is one");
    pair.inbound.take(&mut pair.to, &frame.head, true, pair.now).expect("correct");
    target
}

#[test]
fn what_the_device_writes_is_counted_when_it_says_so() {
    let mut pair = Pair::new();
    let counter = pair.there.expect(Tag::new(1), &[pair.here.id()]).expect("the tag is free");
    let _target = announced(&mut pair);
    assert_eq!(counter.count(), 0);
    pair.inbound.written(&mut pair.to, pair.now).expect("it was announced");
    assert_eq!(counter.count(), 1);
}

#[test]
fn what_the_device_writes_to_a_region_that_was_dropped_is_not_counted() {
    let mut pair = Pair::new();
    let counter = pair.there.expect(Tag::new(1), &[pair.here.id()]).expect("the tag is free");
    drop(announced(&mut pair));
    pair.inbound.written(&mut pair.to, pair.now).expect("it was announced");
    assert_eq!(counter.count(), 0);
}

#[test]
fn bytes_that_were_not_announced_break_the_protocol() {
    let mut pair = Pair::new();
    assert!(pair.inbound.written(&mut pair.to, pair.now).is_err());
    let _target = announced(&mut pair);
    assert!(pair.inbound.take(&mut pair.to, &[], false, pair.now).is_err(), "another packet in between");
}
