//! Frames, and what a link makes of frames that no correct peer sends. Links that talk to each other are tested over
//! the faulty network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use smallvec::smallvec;

use super::frame::WireRun;
use super::*;
use crate::contract::{Access, Memory, PeerId, PeerLoss, Region, Tag};
use crate::domain::{Domain, Grant};

fn grant() -> impl Strategy<Value = Grant> {
    (any::<u32>(), any::<u64>()).prop_map(|(region, capability)| Grant { region, capability })
}

proptest! {
    #[test]
    fn a_head_arrives_as_it_was_sent(
        runs in prop::collection::vec((grant(), any::<u64>(), 1_u32..1000), 1..64),
        item: u64, slice in 0_u32..5, tag: (u64, u32),
    ) {
        let runs: Vec<WireRun> =
            runs.into_iter().map(|(grant, offset, len)| WireRun { grant, offset, len }).collect();
        let tag = Tag { id: tag.0, epoch: tag.1 };
        let header = Header { slice, slices: 5, tag, ..Header::new(Verb::Data, item) };
        let frame = Frame::slice(header, &runs, smallvec![]);
        let (head, further) = frame.head.split_first_chunk::<HEADER_BYTES>().expect("a header");
        let parsed = Header::parse(head).expect("it is correct");
        prop_assert_eq!((parsed.item, parsed.slice, parsed.tag), (item, slice, tag));
        prop_assert_eq!(parsed.runs_bytes(), further.len());
        prop_assert_eq!(Head::parse(parsed, further).expect("it is correct").runs.to_vec(), runs);
    }

    #[test]
    fn a_header_with_a_wrong_bit_is_refused(item: u64, bit in 0_usize..60 * 8) {
        let mut head: [u8; HEADER_BYTES] =
            Frame::plain(Header::new(Verb::Alive, item), Payload::None).head[..].try_into().expect("a header");
        head[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Header::parse(&head).is_err());
    }

    /// Whatever correct headers a hostile peer makes up, the link ends or goes on; it does not panic, and nothing is
    /// written outside of what was granted.
    #[test]
    fn a_hostile_peer_harms_nobody(frames in prop::collection::vec(hostile(), 1..60)) {
        let mut victim = Victim::new();
        for hostile in frames {
            victim.hear(hostile);
        }
        victim.check();
    }
}

/// A frame as somebody makes it up who knows the key of the victim's region.
#[derive(Clone, Debug)]
struct Hostile {
    verb: u8,
    numbers: [u64; 4],
    small: [u32; 4],
    knows_key: bool,
    further: Vec<(u64, u32)>,
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let number = || prop_oneof![0_u64..8, any::<u64>(), Just(u64::MAX), Just(4096)];
    let small = || prop_oneof![0_u32..5, 0_u32..5, any::<u32>(), Just(1 << 20)];
    let further = prop::collection::vec((number(), 0_u32..3000), 0..3);
    let numbers = [number().boxed(), number().boxed(), number().boxed(), number().boxed()];
    let smalls = [small().boxed(), small().boxed(), small().boxed(), small().boxed()];
    (1_u8..13, numbers, smalls, any::<bool>(), further).prop_map(
        |(verb, numbers, small, knows_key, further)| Hostile { verb, numbers, small, knows_key, further },
    )
}

struct Victim {
    domain: Arc<Domain>,
    link: Link,
    region: Region,
    untouched: Region,
    now: Instant,
    _counter: crate::Counter,
}

impl Victim {
    fn new() -> Self {
        let (domain, peer, now) =
            (Domain::with_manual_clock(PeerId::random()), PeerId::random(), Instant::now());
        let region = || domain.register(Memory::zeroed(4096).expect("there is memory"), Access::READ_WRITE);
        let (region, untouched) = (region(), region());
        let _counter = domain.expect(Tag::new(1), &[peer]).expect("the tag is free");
        let mut link = Link::new(Arc::clone(&domain), peer, LinkConfig::default(), now);
        link.rail_up(0, now);
        link.rail_up(1, now);
        Self { domain, link, region, untouched, now, _counter }
    }

    fn hear(&mut self, hostile: Hostile) {
        let key = self.region.key();
        let grant = Grant { region: key.region, capability: key.capability ^ u64::from(!hostile.knows_key) };
        let [item, id, offset, _] = hostile.numbers;
        let [slice, slices, payload, rail] = hostile.small;
        let runs = hostile.further.len() as u16;
        let verb = [Verb::Data, Verb::Answer, Verb::Ack, Verb::Message, Verb::Credit, Verb::Request]
            .into_iter()
            .chain([Verb::Cancel, Verb::RailDown, Verb::Alive, Verb::Goodbye, Verb::Query, Verb::RailClosed])
            .find(|verb| *verb as u8 == hostile.verb)
            .expect("there are twelve verbs");
        let tag = Tag { id: id % 3, epoch: 0 };
        let header = Header {
            further_runs: runs,
            payload,
            slice,
            slices,
            tag,
            grant,
            offset,
            ..Header::new(verb, item)
        };
        // As it would be parsed.
        let Ok(header) = Header::parse(&header.encode()) else { return };
        let further: Vec<u8> = hostile
            .further
            .iter()
            .flat_map(|(offset, len)| {
                let (region, len) = (grant.region.to_le_bytes(), len.to_le_bytes());
                [region.as_slice(), &len, &offset.to_le_bytes(), &grant.capability.to_le_bytes()].concat()
            })
            .collect();
        let Ok(head) = Head::parse(header, &further) else { return };
        let rail = (rail % 2) as RailId;
        let heard =
            self.link.receive(rail, &head, self.now).and_then(|placement| self.place(rail, placement));
        if let Err(error) = heard {
            self.link.fail(error);
        }
        while self.link.next_frame(rail, self.now).is_some() {}
        while let Some(event) = self.link.poll() {
            if let LinkEvent::CloseRail(rail, _) = event {
                self.link.rail_down(rail, self.now);
            }
        }
    }

    fn place(&mut self, rail: RailId, placement: Placement) -> Result<(), ProtocolError> {
        let mut buffered = None;
        match &placement.target {
            Target::Regions(slices) => slices.iter().for_each(|slice| slice.fill_from(&vec![7; slice.len()])),
            Target::Buffer(len) => buffered = Some(Bytes::from(vec![0; *len])),
            Target::Discard(_) | Target::Nothing => {}
        }
        self.link.placed(rail, placement, buffered, self.now)
    }

    fn check(&self) {
        let mut bytes = [0; 4096];
        self.untouched.read_at(0, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0));
        let known = matches!(self.link.lost(), None | Some(PeerLoss::Protocol(_) | PeerLoss::Closed));
        assert!(known, "{:?} {:?}", self.link.lost(), self.domain.id());
    }
}

/// A link with one rail, that has ticked up to `now`.
fn quiet_link() -> (Link, Instant) {
    let now = Instant::now();
    let domain = Domain::with_manual_clock(PeerId::random());
    let mut link = Link::new(domain, PeerId::random(), LinkConfig::default(), now);
    link.rail_up(0, now);
    (link, now)
}

const STEP: Duration = Duration::from_millis(100);

#[test]
fn who_has_nothing_to_say_gives_signs_of_life_unasked() {
    let (mut link, mut now) = quiet_link();
    let mut signs = 0;
    for _ in 0..8 {
        now += STEP;
        link.handle_timeout(now);
        signs += std::iter::from_fn(|| link.next_frame(0, now)).count();
    }
    assert_eq!(signs, 4, "one in 200 ms");
}

#[test]
fn a_payload_that_takes_long_is_no_silence() {
    let (mut link, mut now) = quiet_link();
    for _ in 0..50 {
        now += STEP;
        link.heard(0, now);
        link.handle_timeout(now);
    }
    assert_eq!(link.lost(), None);
}

#[test]
fn who_did_not_listen_takes_nobody_for_silent() {
    let (mut link, mut now) = quiet_link();
    now += Duration::from_secs(5);
    link.handle_timeout(now);
    assert_eq!(link.lost(), None, "this end was stopped, not the peer");
    while link.lost().is_none() {
        now += STEP;
        link.handle_timeout(now);
    }
    assert_eq!(link.lost(), Some(PeerLoss::Silent));
}
