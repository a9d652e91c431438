//! States of recurrent mixers: what a layer that is no attention remembers of every sequence in flight.
//!
//! A state has a fixed size, and a slot; which slot a span reads and which it writes is said by the plan of each step
//! (`blocks::states` keeps the books). In host memory for our CPU kernels (`HostStates`), in MLX arrays for everything else
//! (`GraphStates`), which is the slow twin of the other.

mod graph;
mod host;
#[cfg(test)]
mod twins;

pub(crate) use graph::GraphStates;
pub(crate) use host::HostStates;

use mlxcel_mlx_bridge::{Array, Error, Result};

use crate::blocks::{BlockStore, SpanState, StateLimits, StateSlot};
use crate::decoder::{ShortConvWeights, StepInputs};
use crate::kv::KvCache;
use crate::schedule::{Span, StepPlan};

/// All that the mixers of one rank remember.
pub(crate) struct MixerCache {
    /// Of attention; layers are counted among those of attention.
    pub(crate) kv: Box<dyn KvCache>,
    /// Of all others; layers are counted among those.
    pub(crate) states: Box<dyn StateCache>,
}

/// The states of one rank.
///
/// Steps are evaluated in the order they were built, on one stream: a state that a step leaves is there for the next, and
/// a slot given to another sequence is not written before all earlier steps have read it.
pub(crate) trait StateCache {
    /// Gates and convolves the values of a step with what its sequences had before them, and leaves their states:
    /// `[tokens, channels]` from the input gates, output gates and values, `[tokens, channels]` each.
    ///
    /// # Errors
    /// When the plan names no state of a span, or a slot that there is not.
    fn convolve(
        &mut self,
        layer: usize,
        weights: &ShortConvWeights,
        gates_and_value: [&Array; 3],
        step: &StepInputs,
    ) -> Result<Array>;
}

/// The books of a KV pool of `blocks` blocks, and of states beside it where a sequence has any.
pub(crate) fn block_store(blocks: usize, sequences: usize, bytes: [u64; 2]) -> BlockStore {
    let store = BlockStore::new(blocks);
    match state_limits(blocks, sequences, bytes) {
        Some(limits) => store.with_states(limits),
        None => store,
    }
}

/// Room for states beside a KV pool of `blocks` blocks, for at most `sequences` at once. A snapshot may take a quarter of the
/// bytes of the blocks since the last one, where a state takes `state_bytes` and a block `block_bytes`.
fn state_limits(
    blocks: usize,
    sequences: usize,
    [state_bytes, block_bytes]: [u64; 2],
) -> Option<StateLimits> {
    (state_bytes > 0).then(|| {
        let interval = interval([state_bytes, block_bytes]);
        let running = sequences.min(blocks);
        StateLimits { slots: (running + blocks.div_ceil(interval)).max(2), interval }
    })
}

/// Blocks from one snapshot to the next.
fn interval([state_bytes, block_bytes]: [u64; 2]) -> usize {
    (4 * state_bytes).div_ceil(block_bytes.max(1)).clamp(1, MOST_INTERVAL) as usize
}

/// Bytes of snapshots that come with each block.
pub(crate) fn snapshot_bytes_per_block(bytes: [u64; 2]) -> u64 {
    bytes[0].div_ceil(interval(bytes) as u64)
}

/// More slots than any plan over `blocks` blocks names: a running sequence has a block, and a snapshot one, too.
pub(crate) const fn most_slots(blocks: usize) -> usize {
    2 * blocks + 2
}

/// Blocks between snapshots where a state is very large beside them.
const MOST_INTERVAL: u64 = 64;

/// The state of each span, all of whose slots are among `most`.
fn states_of(plan: &StepPlan, most: usize) -> Result<Vec<&SpanState>> {
    let known = |slot: &StateSlot| (slot.0 as usize) < most;
    let state = |span: &'_ Span| -> std::result::Result<(), Error> {
        let Some(state) = &span.state else {
            return Err(defect(&format!("the plan names no state of sequence {}", span.sequence.0)));
        };
        let kept = state.snapshots.iter().map(|snapshot| &snapshot.slot);
        match state.from.iter().chain([&state.to]).chain(kept).find(|slot| !known(slot)) {
            Some(slot) => Err(defect(&format!("a step names slot {}, there are {most}", slot.0))),
            None => Ok(()),
        }
    };
    plan.spans.iter().try_for_each(state)?;
    Ok(plan.spans.iter().filter_map(|span| span.state.as_ref()).collect())
}

/// Where a span leaves states, each after how many of its own tokens.
fn left<'a>(span: &'a Span, state: &'a SpanState) -> impl Iterator<Item = (StateSlot, usize)> + 'a {
    let kept = state.snapshots.iter().map(|kept| (kept.slot, kept.tokens.saturating_sub(span.start)));
    kept.chain([(state.to, span.tokens.len())])
}

/// A caller broke the cache's contract.
fn defect(message: &str) -> Error {
    Error::argument("convolve", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_take_a_quarter_of_what_their_blocks_take_at_most() {
        // LFM2 1.2B: ten convolutions of 2,048 channels and three taps, six layers of eight KV heads, in f32 and with int4 keys.
        let state = 10 * 2 * 2048 * 4;
        let block = 6 * 2 * 8 * 64 * 4 * 32;
        for (block_bytes, interval) in [(block, 1), (block / 6, 5), (0, 64)] {
            let limits = state_limits(100, 16, [state, block_bytes]).expect("it has states");
            assert_eq!((limits.interval, limits.slots), (interval, 16 + 100_usize.div_ceil(interval)));
            assert!(limits.slots <= most_slots(100));
            assert!(4 * snapshot_bytes_per_block([state, block_bytes]) <= block_bytes.max(state / 16));
        }
        assert_eq!(state_limits(100, 16, [0, block]), None);
    }
}
