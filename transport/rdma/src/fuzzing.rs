//! For the fuzzer: an end that hears packets from a peer that was let in.

use std::sync::Arc;
use std::time::Instant;

use mlxcel_transport::core::{Link, LinkConfig, ProtocolError};
use mlxcel_transport::domain::Grant;
use mlxcel_transport::{Access, Batch, Domain, Memory, Op, PeerId, Region, Tag};

use crate::admissions::Admissions;
use crate::connection::{Inbound, RAIL};
use crate::credit::Credit;
use crate::leases::{Leases, Reached};
use crate::wire::{Note, Packet};

/// What a connection has but for its device.
struct Victim {
    domain: Arc<Domain>,
    link: Link,
    inbound: Inbound,
    credit: Credit,
    admissions: Admissions,
    leases: Leases,
    now: Instant,
    open: Region,
    closed: Region,
}

impl Victim {
    fn new() -> Self {
        let (peer, now) = (PeerId::from_bytes([2; 16]), Instant::now());
        let domain = Domain::with_manual_clock(PeerId::from_bytes([1; 16]));
        let region = |access| domain.register(Memory::zeroed(LEN).expect("there is memory"), access);
        let (open, closed) = (region(Access::READ_WRITE), region(Access::LOCAL));
        let mut link = Link::new(Arc::clone(&domain), peer, LinkConfig::default(), now);
        link.rail_up(RAIL, now);
        // Something to be acknowledged.
        let batch = Batch::single((&open, 0), (&open.key(), 0), LEN as u64).expect("it fits");
        link.write(&batch, Tag::new(7), Op::pending().1);
        Self {
            domain,
            link,
            inbound: Inbound::default(),
            credit: Credit::new(64, 64),
            admissions: Admissions::default(),
            leases: Leases::default(),
            now,
            open,
            closed,
        }
    }

    /// The only region that the peer was given.
    fn grant(&self) -> Grant {
        let key = self.open.key();
        Grant { region: key.region, capability: key.capability }
    }

    fn hear(&mut self, packet: &[u8]) -> Result<(), ProtocolError> {
        let packet = Packet::parse(packet)?;
        self.credit.hear(packet.head.credit)?;
        let mut said = std::collections::VecDeque::new();
        for note in packet.notes() {
            match note? {
                Note::Ask(_) => {
                    let reach = |_: &_, _| Some(Reached { start: 0, key: 0, kept: Arc::new(()) });
                    self.leases.answer(&self.domain, self.grant(), reach)?;
                }
                Note::Withdrawn(grant) => self.admissions.withdrawn(grant, &mut said)?,
                Note::Released(grant) => self.leases.released(grant)?,
                answer => self.admissions.answered(answer)?,
            }
        }
        self.inbound.take(&mut self.link, packet.stream, packet.head.written, self.now)
    }
}

/// Feeds a connection with what `input` describes: packets, and the device's word that bytes were written.
///
/// # Panics
/// When bytes are written outside of what the peer was given.
pub fn packets(mut input: &[u8]) {
    let mut victim = Victim::new();
    let _counter = victim.domain.expect(Tag { id: 0, epoch: 0 }, &[victim.link.peer()]).expect("it is free");
    while let [control, len, rest @ ..] = input {
        let (packet, others) = rest.split_at(usize::from(*len).min(rest.len()));
        input = others;
        let heard = match control & 1 {
            0 => victim.hear(packet),
            _ => victim.inbound.written(&mut victim.link, victim.now),
        };
        if heard.is_err() {
            break;
        }
        while victim.link.next_frame(RAIL, victim.now).is_some() {}
        while victim.link.poll().is_some() {}
    }
    let mut bytes = [0; LEN];
    victim.closed.read_at(0, &mut bytes);
    assert!(bytes.iter().all(|byte| *byte == 0), "what was not granted is untouched");
}

/// Bytes of each region.
const LEN: usize = 4096;
