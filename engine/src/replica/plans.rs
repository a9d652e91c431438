//! Plans of steps as they travel from the leader to every other rank: token ids and block numbers, never tensors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mlxcel_transport::domain::MAX_MESSAGE;
use mlxcel_transport::{Channel, OpError, PeerId, Transport, TransportExt};

use super::hidden::STEP_PATIENCE;
use crate::blocks::Snapshot;
use crate::schedule::StepPlan;

/// Plans, in the order of their steps.
const PLANS: Channel = Channel(1);

/// Longest plan that is believed.
const MAX_PLAN_BYTES: usize = 64 << 20;

/// How long handing a plan over may take: as long as a step, since a rank that computes reads none.
const PATIENCE: Duration = STEP_PATIENCE;

/// Why no plan came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlanError {
    /// The leader is lost, or said nothing.
    #[error("the leader cannot be heard: {0}")]
    Transport(#[from] OpError),
    /// What came is no plan.
    #[error("the leader sent no plan: {0}")]
    Malformed(String),
}

/// Sends plans to ranks.
pub(super) struct PlanSender {
    transport: Arc<dyn Transport>,
    ranks: Vec<PeerId>,
    scratch: Vec<u8>,
}

impl PlanSender {
    pub(super) fn new(transport: Arc<dyn Transport>, ranks: Vec<PeerId>) -> Self {
        Self { transport, ranks, scratch: Vec::new() }
    }

    /// Sends a plan to every rank. Done when it is on its way; that a rank is lost is seen by the step.
    pub(super) fn send(&mut self, plan: &StepPlan) -> Result<(), String> {
        let encoded = postcard::to_extend(plan, std::mem::take(&mut self.scratch));
        let encoded = encoded.map_err(|error| error.to_string())?;
        let length = u32::try_from(encoded.len()).map_err(|_| "a plan is too long".to_owned())?;
        let mut message = BytesMut::with_capacity(LENGTH_BYTES + encoded.len());
        message.extend_from_slice(&length.to_le_bytes());
        message.extend_from_slice(&encoded);
        let message = message.freeze();
        self.scratch = encoded;
        self.scratch.clear();
        let deadline = Instant::now() + PATIENCE;
        for rank in &self.ranks {
            for at in (0..message.len()).step_by(MAX_MESSAGE) {
                let part = message.slice(at..message.len().min(at + MAX_MESSAGE));
                // Its end tells nothing that the step does not.
                drop(self.transport.send(*rank, PLANS, part, deadline));
            }
        }
        self.transport.stop_driving();
        Ok(())
    }
}

/// Receives plans from the leader.
pub(super) struct PlanReceiver {
    transport: Arc<dyn Transport>,
    leader: PeerId,
    begun: BytesMut,
}

impl PlanReceiver {
    pub(super) fn new(transport: Arc<dyn Transport>, leader: PeerId) -> Self {
        Self { transport, leader, begun: BytesMut::new() }
    }

    /// The next plan, if it comes within `patience`.
    pub(super) fn receive(&mut self, patience: Duration) -> Result<Option<StepPlan>, PlanError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(plan) = self.complete()? {
                return Ok(Some(plan));
            }
            match self.part(deadline) {
                Ok(part) => self.begun.extend_from_slice(&part),
                Err(OpError::Timeout) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn part(&self, deadline: Instant) -> Result<Bytes, OpError> {
        loop {
            if let Some(part) = self.transport.domain().try_receive(self.leader, PLANS) {
                return Ok(part);
            }
            let readable = self.transport.domain().readable(self.leader, PLANS, deadline);
            self.transport.wait(readable)?;
        }
    }

    fn complete(&mut self) -> Result<Option<StepPlan>, PlanError> {
        let Some(length) = self.begun.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_PLAN_BYTES {
            return Err(PlanError::Malformed(format!("a plan of {length} bytes")));
        }
        if self.begun.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        let message = self.begun.split_to(LENGTH_BYTES + length);
        let plan = decode(&message[LENGTH_BYTES..])?;
        Ok(Some(plan))
    }
}

/// A plan that makes sense by itself: whoever runs it indexes by what it says.
fn decode(bytes: &[u8]) -> Result<StepPlan, PlanError> {
    let malformed = |what: String| Err(PlanError::Malformed(what));
    let plan: StepPlan = match postcard::from_bytes(bytes) {
        Ok(plan) => plan,
        Err(error) => return malformed(error.to_string()),
    };
    for span in &plan.spans {
        let (tokens, room) = (span.tokens.len(), span.blocks.len() * crate::blocks::BLOCK_TOKENS);
        if tokens == 0 || span.samples > tokens || span.start.checked_add(tokens).is_none_or(|end| end > room)
        {
            return malformed(format!("{tokens} tokens from {} on in {room} places", span.start));
        }
        if let Some(state) = &span.state {
            let within = |kept: &Snapshot| (span.start + 1..=span.start + tokens).contains(&kept.tokens);
            if state.from.is_some() != (span.start > 0) || !state.snapshots.iter().all(within) {
                return malformed(format!("states of {tokens} tokens from {} on: {state:?}", span.start));
            }
        }
    }
    Ok(plan)
}

const LENGTH_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blocks::{BlockCopy, BlockId, SpanState, StateSlot};
    use crate::schedule::{SequenceId, Span, Token};

    fn plan() -> StepPlan {
        let span = |name, tokens: &[u32], start, samples| Span {
            sequence: SequenceId(name),
            tokens: tokens.iter().copied().map(Token::Known).collect(),
            start,
            samples,
            blocks: [BlockId(3), BlockId(9)].into(),
            state: Some(SpanState {
                from: (start > 0).then_some(StateSlot(5)),
                to: StateSlot(2),
                snapshots: vec![Snapshot { tokens: start + tokens.len(), slot: StateSlot(3) }],
            }),
        };
        let copies = vec![BlockCopy { from: BlockId(1), to: BlockId(9), tokens: 7 }];
        StepPlan { spans: vec![span(1, &[128_000], 40, 1), span(7, &[4, 5, 6], 0, 0)], copies }
    }

    #[test]
    fn a_plan_arrives_as_it_was_sent() {
        let bytes = postcard::to_stdvec(&plan()).expect("it is data");
        assert_eq!(decode(&bytes), Ok(plan()));
    }

    #[test]
    fn a_plan_that_leaves_its_blocks_or_names_what_is_not_there_is_refused() {
        let refused = |change: fn(&mut Span)| {
            let mut plan = plan();
            change(&mut plan.spans[0]);
            assert!(matches!(
                decode(&postcard::to_stdvec(&plan).expect("data")),
                Err(PlanError::Malformed(_))
            ));
        };
        refused(|span| span.start = 64);
        refused(|span| span.start = usize::MAX);
        refused(|span| span.samples = 2);
        refused(|span| span.tokens.clear());
        refused(|span| span.state.as_mut().expect("it has a state").from = None);
        refused(|span| span.state.as_mut().expect("it has a state").snapshots[0].tokens = 42);
        refused(|span| span.state.as_mut().expect("it has a state").snapshots[0].tokens = 40);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
