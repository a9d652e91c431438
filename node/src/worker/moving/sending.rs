//! The end of a move where the prefix is computed.
//!
//! The engine stages each layer's blocks as a step computes them; this thread writes them while the next layer is
//! computed.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::executor::block_on;
use mlxcel_engine::transfer::{LandingArea, Prefix, TransferPlan};
use mlxcel_engine::{Event, GenerateError};
use mlxcel_protocol::v1::move_prefix_event::Kind as Said;
use mlxcel_protocol::v1::move_prefix_request::Kind as Told;
use mlxcel_protocol::v1::{FailureKind, PrefixTarget, PrefixWritten};
use mlxcel_transport::{Access, BatchBuilder, Key, Memory, Op, OpError, Tag, Transport, TransportExt};
use tracing::info;

use super::plane::Plane;
use super::staging::{Landing, Stage};
use super::{Conversation, Note, Refusal, invalid, out_of_turn};

/// Says where it is, waits to be told what to compute, and writes that to the receiver's memory.
pub(super) fn send(conversation: &Conversation) -> Result<(), Refusal> {
    conversation.door()?;
    let plane = conversation.plane()?;
    conversation.say(Said::End(plane.end()));
    let Told::Target(target) = conversation.told()? else { return Err(out_of_turn()) };
    let begun = Instant::now();
    let (prefix, mut sending) = Sending::open(conversation, plane, target)?;
    let id = format!("move-{}", conversation.id);
    let notes = conversation.own.clone();
    let events = Box::new(move |event| {
        let computed = match event {
            Event::Finished(finish) if finish.reason == mlxcel_engine::FinishReason::Length => Ok(()),
            Event::Finished(_) => {
                Err(GenerateError::Internal("the prefix was not computed to its end".into()))
            }
            Event::Failed(error) => Err(error),
            _ => return,
        };
        // Whoever waits for it may have given up.
        let _ = notes.send(Note::Computed(computed));
    });
    conversation.door()?.compute(&id, prefix, Arc::clone(&sending.stage) as _, events);
    let ended = sending.follow(conversation);
    if ended.is_err() {
        conversation.engine.cancel(&id);
    }
    let computed = ended?;
    let written = sending.finish(computed.duration_since(begun), computed)?;
    info!(bytes = written.bytes, while_computing = written.bytes_while_computing, "gave a prefix away");
    conversation.say(Said::Written(written));
    Ok(())
}

/// A prefix on its way out. Dropping it ends what is in flight.
struct Sending {
    plane: Arc<Plane>,
    stage: Arc<Stage>,
    key: Key,
    tag: Tag,
    until: Instant,
    /// Writes, and how many bytes each has.
    posted: Vec<(Op, u64)>,
    /// Acknowledged when the prefix had been computed.
    early: u64,
}

impl Sending {
    /// Checks that the receiver can use what this engine computes, and connects to it.
    fn open(
        conversation: &Conversation,
        plane: Arc<Plane>,
        target: PrefixTarget,
    ) -> Result<(Prefix, Self), Refusal> {
        let landing: Landing = serde_json::from_slice(&target.landing)
            .map_err(|error| invalid(format!("a prefix's landing is none: {error}")))?;
        let key = Key::from_bytes(&landing.key).map_err(|error| invalid(error.to_string()))?;
        let (own, theirs) = (conversation.door()?.description(), landing.description);
        if own.model != theirs.model {
            return Err(invalid("the workers do not hold the same weights under this model's name"));
        }
        let blocks = own.layout.block_tokens;
        if blocks != theirs.layout.block_tokens || !target.tokens.len().is_multiple_of(blocks) {
            let theirs = theirs.layout.block_tokens;
            return Err(invalid(format!("blocks of {blocks} tokens do not become blocks of {theirs}")));
        }
        let prefix = Prefix {
            blocks: target.first_block as usize..target.tokens.len() / blocks,
            tokens: target.tokens,
        };
        let area = LandingArea::new(&theirs.layout, prefix.blocks.clone());
        let area = area.map_err(|error| invalid(error.to_string()))?;
        if area.bytes() == 0 || key.len != area.bytes() as u64 {
            let (found, wanted) = (key.len, area.bytes());
            return Err(invalid(format!("a landing of {found} bytes takes no prefix of {wanted}")));
        }
        let plan = TransferPlan::new(vec![own.layout.clone()], vec![theirs.layout]);
        let plan = plan.map_err(|error| invalid(error.to_string()))?;
        let counted = conversation.stage(area.bytes())?;
        connect(conversation, &plane, &target.end.unwrap_or_default())?;
        let memory =
            Memory::zeroed(area.bytes()).map_err(|error| (FailureKind::Internal, error.to_string()))?;
        let region = plane.transport.register(memory, Access::LOCAL);
        let region = region.map_err(|error| (FailureKind::Internal, error.to_string()))?;
        let (notes, written) = (conversation.own.clone(), Mutex::default());
        let stage = Arc::new(Stage { plan, area, region, notes, written, _counted: counted });
        let (tag, until) = (Tag::new(landing.tag), conversation.until);
        Ok((prefix, Self { plane, stage, key, tag, until, posted: Vec::new(), early: 0 }))
    }

    /// Writes what is staged until the prefix has been computed; when that was.
    fn follow(&mut self, conversation: &Conversation) -> Result<Instant, Refusal> {
        loop {
            match conversation.note(self.until)? {
                Some(Note::Staged(ranges)) => self.post(&ranges)?,
                Some(Note::Computed(Ok(()))) => {
                    self.early = self.acknowledged()?;
                    return Ok(Instant::now());
                }
                Some(Note::Computed(Err(error))) => {
                    return Err((FailureKind::Internal, format!("the prefix was not computed: {error}")));
                }
                Some(Note::Told(_)) => return Err(out_of_turn()),
                Some(Note::GivenUp) | None => {}
            }
        }
    }

    /// Writes some images, the same bytes at the same places, as one batch.
    fn post(&mut self, ranges: &[Range<usize>]) -> Result<(), Refusal> {
        self.acknowledged()?;
        let mut batch = BatchBuilder::default();
        let pair = batch.pair(&self.stage.region, &self.key);
        for range in ranges {
            batch.run(pair, range.start as u64, range.start as u64, range.len() as u64);
        }
        let batch = batch.build().map_err(|error| (FailureKind::Internal, error.to_string()))?;
        let op = self.plane.transport.write(&batch, self.tag, self.until);
        // This thread sleeps until the next layer is there.
        self.plane.transport.stop_driving();
        self.posted.push((op, batch.bytes()));
        Ok(())
    }

    /// Bytes acknowledged so far.
    fn acknowledged(&self) -> Result<u64, Refusal> {
        let mut bytes = 0;
        for (op, of) in &self.posted {
            match op.outcome() {
                Some(Ok(())) => bytes += of,
                Some(Err(error)) => return Err(broken(error)),
                None => {}
            }
        }
        Ok(bytes)
    }

    /// Waits until all has been acknowledged.
    fn finish(
        &mut self,
        computing: std::time::Duration,
        computed: Instant,
    ) -> Result<PrefixWritten, Refusal> {
        let (batches, bytes) = (self.posted.len() as u64, self.posted.iter().map(|(_, bytes)| bytes).sum());
        for (op, _) in &self.posted {
            self.plane.transport.wait(op.clone()).map_err(broken)?;
        }
        if bytes != self.stage.area.bytes() as u64 {
            let message = format!("{bytes} bytes of a prefix of {} were computed", self.stage.area.bytes());
            return Err((FailureKind::Internal, message));
        }
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Ok(PrefixWritten {
            batches,
            bytes,
            bytes_while_computing: self.early,
            compute_micros: micros(computing),
            rest_micros: micros(computed.elapsed()),
        })
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.posted.iter().for_each(|(op, _)| op.cancel());
    }
}

fn connect(
    conversation: &Conversation,
    plane: &Plane,
    end: &mlxcel_protocol::v1::TransferEnd,
) -> Result<(), Refusal> {
    let offer = plane.admit(end).map_err(invalid)?;
    let until = conversation.until.min(Instant::now() + CONNECT_PATIENCE);
    let connected = block_on(plane.transport.connect_offered(&offer, until));
    let unreachable = |error: &dyn std::fmt::Display| {
        format!("the worker that lacks the prefix cannot be reached: {error}")
    };
    connected.map(|_| ()).map_err(|error| (FailureKind::Internal, unreachable(&error)))
}

fn broken(error: OpError) -> Refusal {
    (FailureKind::WorkerLost, format!("the prefix did not reach the worker that lacks it: {error}"))
}

const CONNECT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
