//! The end of a move where the prefix is wanted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mlxcel_engine::GenerateError;
use mlxcel_engine::transfer::{LandingArea, Prefix};
use mlxcel_protocol::v1::move_prefix_event::Kind as Said;
use mlxcel_protocol::v1::move_prefix_request::Kind as Told;
use mlxcel_protocol::v1::{FailureKind, PrefixTaken, PrefixTarget, PrefixWritten, ReceivePrefix};
use mlxcel_transport::{Access, Counter, Memory, Region, Tag, Transport, TransportExt};
use tracing::info;

use super::staging::{Landed, Landing};
use super::{Conversation, Note, Refusal, Staged, invalid, out_of_turn};
use crate::wire;

/// Makes room for what a request's prompt lacks, and takes it over when it is there.
pub(super) fn receive(conversation: &Conversation, receive: ReceivePrefix) -> Result<(), Refusal> {
    let door = conversation.door()?;
    let request = receive.request.ok_or_else(|| invalid("a prefix is received for a request"))?;
    let request = wire::request(request).map_err(invalid)?;
    let prefix = door.missing(request).map_err(|error| match error {
        GenerateError::Invalid(rule) => invalid(rule),
        other => (FailureKind::Internal, other.to_string()),
    })?;
    if prefix.blocks.is_empty() {
        conversation.say(Said::Taken(PrefixTaken::default()));
        return Ok(());
    }
    let sender = receive.sender.ok_or_else(|| invalid("a prefix is received from a sender"))?;
    let plane = conversation.plane()?;
    let peer = plane.admit(&sender).map_err(invalid)?.peer;
    let internal = |error: &dyn std::fmt::Display| (FailureKind::Internal, error.to_string());
    let area = LandingArea::new(&door.description().layout, prefix.blocks.clone());
    let area = area.map_err(|error| internal(&error))?;
    let counted = conversation.stage(area.bytes())?;
    let memory = Memory::zeroed(area.bytes()).map_err(|error| internal(&error))?;
    let region = plane.transport.register(memory, Access::WRITE).map_err(|error| internal(&error))?;
    let tag: u64 = tag();
    let counter =
        plane.transport.domain().expect(Tag::new(tag), &[peer]).map_err(|error| internal(&error))?;
    let landing = Landing { description: door.description().clone(), tag, key: region.key().to_bytes() };
    conversation.say(Said::Target(PrefixTarget {
        end: Some(plane.end()),
        tokens: prefix.tokens.clone(),
        first_block: prefix.blocks.start as u32,
        landing: serde_json::to_vec(&landing).expect("a landing is plain data"),
        bytes: area.bytes() as u64,
    }));
    Arriving { prefix, area, region, counter, counted }.take_over(conversation)
}

/// A prefix on its way here. Dropping it withdraws the memory: what comes later is dropped by the transport.
struct Arriving {
    prefix: Prefix,
    area: LandingArea,
    region: Region,
    counter: Counter,
    counted: Staged,
}

impl Arriving {
    fn take_over(self, conversation: &Conversation) -> Result<(), Refusal> {
        let PrefixWritten { batches, .. } = self.written(conversation)?;
        // Each has been acknowledged to the sender, and so counted here.
        let arrived = self.counter.count();
        if batches == 0 || arrived != batches {
            let message = format!("{arrived} of the {batches} batches of a prefix have arrived");
            return Err((FailureKind::Internal, message));
        }
        let begun = Instant::now();
        let Self { prefix, area, region, counter, counted } = self;
        let landed = Landed { area, memory: Arc::clone(region.memory()), _counted: counted };
        drop((counter, region));
        let tokens_of_block = prefix.tokens.len() / prefix.blocks.end;
        let blocks = conversation.door()?.import(prefix, Arc::new(landed));
        let blocks = blocks.map_err(|error| (FailureKind::Overloaded, error.to_string()))?;
        let tokens = blocks * tokens_of_block;
        info!(tokens, "took a prefix over");
        let import_micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        conversation.say(Said::Taken(PrefixTaken { tokens: tokens as u32, import_micros }));
        Ok(())
    }

    /// Waits for the word that all has been written, as long as the sender lives.
    fn written(&self, conversation: &Conversation) -> Result<PrefixWritten, Refusal> {
        loop {
            match conversation.note(Instant::now() + GLANCE)? {
                Some(Note::Told(told)) => match *told {
                    Told::Written(written) => return Ok(written),
                    _ => return Err(out_of_turn()),
                },
                Some(Note::GivenUp | Note::Staged(_) | Note::Computed(_)) | None => {}
            }
            if self.counter.lost().is_some() {
                let message = "the worker that computes the prefix was lost".to_owned();
                return Err((FailureKind::WorkerLost, message));
            }
        }
    }
}

/// Unlike any other's: what is left of an earlier move is not taken for this one.
fn tag() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(Instant::now())
}

const GLANCE: Duration = Duration::from_millis(50);
