//! A stream of frames from a peer that knows the key of a region: the link goes on or ends, and nothing is written
//! outside of what was granted.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mlxcel_transport::core::{
    HEADER_BYTES, Head, Header, Link, LinkConfig, LinkEvent, Placement, ProtocolError, RailId, Target,
};
use mlxcel_transport::domain::Grant;
use mlxcel_transport::{Access, Batch, Domain, Memory, Op, PeerId, Region, Tag};

/// Bytes of each region.
const LEN: usize = 4096;

struct Victim {
    domain: Arc<Domain>,
    link: Link,
    open: Region,
    closed: Region,
    now: Instant,
}

impl Victim {
    fn new() -> Self {
        let (peer, now) = (PeerId::from_bytes([2; 16]), Instant::now());
        let domain = Domain::with_manual_clock(PeerId::from_bytes([1; 16]));
        let region = |access| domain.register(Memory::zeroed(LEN).expect("there is memory"), access);
        let (open, closed) = (region(Access::READ_WRITE), region(Access::LOCAL));
        let mut link = Link::new(Arc::clone(&domain), peer, LinkConfig::default(), now);
        link.rail_up(0, now);
        link.rail_up(1, now);
        // Something to be acknowledged.
        let batch = Batch::single((&open, 0), (&open.key(), 0), LEN as u64).expect("it fits");
        let (_, done) = Op::pending();
        link.write(&batch, Tag::new(7), done);
        Self { domain, link, open, closed, now }
    }

    /// Hears one frame; what is left of the stream.
    fn hear<'a>(&mut self, stream: &'a [u8]) -> Option<&'a [u8]> {
        let (control, rest) = stream.split_first()?;
        let (header, rest) = rest.split_first_chunk::<HEADER_BYTES>()?;
        let Ok(mut header) = Header::parse(header) else { return Some(rest) };
        if control & 2 != 0 {
            let key = self.open.key();
            header.grant = Grant { region: key.region, capability: key.capability };
        }
        let runs = header.runs_bytes().min(rest.len());
        let (further, mut rest) = rest.split_at(runs);
        let Ok(head) = Head::parse(header, further) else { return Some(rest) };
        let rail = RailId::from(control & 1);
        let heard = self.link.receive(rail, &head, self.now);
        let heard = heard.and_then(|placement| {
            rest = self.place(rail, placement, rest)?;
            Ok(())
        });
        if let Err(error) = heard {
            self.link.fail(error);
        }
        if control & 4 != 0 {
            self.now += Duration::from_millis(100);
            self.link.handle_timeout(self.now);
        }
        self.obey();
        Some(rest)
    }

    fn place<'a>(
        &mut self,
        rail: RailId,
        placement: Placement,
        stream: &'a [u8],
    ) -> Result<&'a [u8], ProtocolError> {
        let mut buffered = None;
        let mut rest = stream;
        match &placement.target {
            Target::Regions(slices) => slices.iter().for_each(|slice| slice.fill_from(&vec![7; slice.len()])),
            Target::Buffer(len) => {
                let (own, others) = stream.split_at((*len).min(stream.len()));
                let mut bytes = own.to_vec();
                bytes.resize(*len, 0);
                buffered = Some(Bytes::from(bytes));
                rest = others;
            }
            Target::Discard(_) | Target::Nothing => {}
        }
        if self.link.wants(&placement)? || buffered.is_some() {
            self.link.placed(rail, placement, buffered, self.now)?;
        }
        Ok(rest)
    }

    fn obey(&mut self) {
        for rail in 0..2 {
            while self.link.next_frame(rail, self.now).is_some() {}
        }
        while let Some(event) = self.link.poll() {
            if let LinkEvent::CloseRail(rail, _) = event {
                self.link.rail_down(rail, self.now);
            }
        }
    }
}

fuzz_target!(|stream: &[u8]| {
    let mut victim = Victim::new();
    let _counter = victim.domain.expect(Tag { id: 0, epoch: 0 }, &[victim.link.peer()]).expect("it is free");
    let mut rest = stream;
    while let Some(more) = victim.hear(rest) {
        rest = more;
    }
    let mut bytes = [0; LEN];
    victim.closed.read_at(0, &mut bytes);
    assert!(bytes.iter().all(|byte| *byte == 0), "what was not granted is untouched");
});
