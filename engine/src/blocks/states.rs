//! Slots for the states of sequences: whose each is, which are snapshots of cached prefixes, which are free.
//!
//! A recurrent mixer knows of a sequence's past only a state of fixed size, so a cached prefix is of use only where the
//! state at its end was kept: a snapshot, which belongs to a block of the prefix tree and goes with it or before it. Snapshots
//! are taken at every so many blocks of a sequence, as far as there are slots, and the least recently used give way (after
//! Pan et al., "Marconi: Prefix Caching for the Era of Hybrid LLMs", MLSys 2025). A state is written where nobody else
//! reads, so that snapshots and forks share slots without copying. Pure: knows no states, only where they are.

use std::collections::BTreeSet;

use super::prefix::index;
use super::store::BlockStore;
use super::table::TableState;
use super::{BLOCK_TOKENS, BlockId, BlockTable, Snapshot, SpanState, StateSlot};

/// How many states there is room for, and how often one is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateLimits {
    /// Slots, for running sequences and snapshots together; two at least.
    pub slots: usize,
    /// Blocks from one snapshot of a sequence to the next; one at least.
    pub interval: usize,
}

/// A state has nowhere to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{needed} slots for states are needed, {available} are available; end or preempt a sequence")]
pub struct OutOfStates {
    /// Slots asked for.
    pub needed: usize,
    /// Slots free or evictable.
    pub available: usize,
}

/// The slots of one pool.
#[derive(Debug)]
pub(super) struct StateSlots {
    slots: Vec<Slot>,
    /// Taken from the end.
    free: Vec<StateSlot>,
    /// The snapshot of each block that has one.
    of_block: Vec<Option<StateSlot>>,
    /// Snapshots that no table uses, least recently used first.
    idle: BTreeSet<(u64, StateSlot)>,
    /// Blocks between two snapshots of a sequence.
    interval: usize,
    /// Counts releases, to tell which is the latest.
    clock: u64,
    evicted: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Uses by tables.
    references: u32,
    /// Whose snapshot it is.
    block: Option<BlockId>,
    /// When it became idle last.
    used: u64,
}

impl BlockStore {
    /// Makes sure that the state of `table` has a slot of its own to go on in. Nothing to do without states.
    ///
    /// # Errors
    /// [`OutOfStates`] when there is none.
    pub fn claim_state(&mut self, table: &mut BlockTable) -> Result<(), OutOfStates> {
        self.states.as_mut().map_or(Ok(()), |states| states.claim(&mut table.state))
    }

    /// Moves the state of `table` on by `tokens` tokens, and says where a step is to find and leave it; nothing without
    /// states. What is kept on the way enters the tree with [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`OutOfStates`] when there is no slot, which a table that has [claimed](Self::claim_state) one never meets.
    pub fn advance(
        &mut self,
        table: &mut BlockTable,
        tokens: usize,
    ) -> Result<Option<SpanState>, OutOfStates> {
        self.states.as_mut().map(|states| states.advance(&mut table.state, tokens)).transpose()
    }

    /// Whether sequences have states.
    pub fn has_states(&self) -> bool {
        self.states.is_some()
    }

    /// Snapshots given up since the pool was made, for want of slots or with their blocks.
    pub fn snapshots_evicted(&self) -> u64 {
        self.states.as_ref().map_or(0, |states| states.evicted)
    }

    /// Hands the computed snapshots of a table to the nodes of its tokens in the tree.
    pub(super) fn publish_snapshots(&mut self, table: &mut BlockTable, tokens: &[u32]) {
        let Some(states) = &mut self.states else { return };
        let computed = |snapshot: &Snapshot| snapshot.tokens <= tokens.len();
        let ready: Vec<Snapshot> = table.state.snapshots.extract_if(.., |one| computed(one)).collect();
        // Walked only where another sequence's block stands for one of the table's.
        let mut path = None;
        for Snapshot { tokens: end, slot } in ready {
            let at = end / BLOCK_TOKENS - 1;
            let own = table.blocks.get(at).copied().filter(|block| self.tree.contains(*block));
            let node = own.or_else(|| path.get_or_insert_with(|| self.tree.path(tokens)).get(at).copied());
            if let Some(block) = node {
                states.keep(block, slot);
            }
            states.let_go(slot);
        }
    }
}

impl StateSlots {
    pub(super) fn new(limits: StateLimits, blocks: usize) -> Self {
        let slots = u32::try_from(limits.slots.max(2)).unwrap_or(u32::MAX);
        Self {
            slots: vec![Slot::default(); slots as usize],
            free: (0..slots).rev().map(StateSlot).collect(),
            of_block: vec![None; blocks],
            idle: BTreeSet::new(),
            interval: limits.interval.max(1),
            clock: 0,
            evicted: 0,
        }
    }

    /// The state at the end of the longest part of a cached prefix that has one; `blocks` is cut to it.
    pub(super) fn attach(&mut self, blocks: &mut Vec<BlockId>) -> TableState {
        let kept = blocks.iter().rposition(|block| self.of_block[index(*block)].is_some());
        blocks.truncate(kept.map_or(0, |at| at + 1));
        let current = blocks.last().and_then(|block| self.of_block[index(*block)]);
        current.into_iter().for_each(|slot| self.hold(slot));
        TableState { tokens: blocks.len() * BLOCK_TOKENS, current, ..TableState::default() }
    }

    fn claim(&mut self, state: &mut TableState) -> Result<(), OutOfStates> {
        if state.own.is_none() {
            state.own = Some(self.take().ok_or(OutOfStates { needed: 1, available: 0 })?);
        }
        Ok(())
    }

    fn advance(&mut self, state: &mut TableState, tokens: usize) -> Result<SpanState, OutOfStates> {
        self.claim(state)?;
        let to = state.own.ok_or(OutOfStates { needed: 1, available: 0 })?;
        let from = state.current.replace(to);
        self.hold(to);
        from.into_iter().for_each(|slot| self.let_go(slot));
        let blocks = state.tokens / BLOCK_TOKENS + 1..=(state.tokens + tokens) / BLOCK_TOKENS;
        state.tokens += tokens;
        let (mut snapshots, interval) = (Vec::new(), self.interval);
        for block in blocks.filter(|block| block.is_multiple_of(interval)) {
            let Some(slot) = self.take() else { break };
            snapshots.push(Snapshot { tokens: block * BLOCK_TOKENS, slot });
        }
        state.snapshots.extend_from_slice(&snapshots);
        Ok(SpanState { from, to, snapshots })
    }

    /// A second state that goes on from the same one. What both read is written by neither.
    pub(super) fn fork(&mut self, state: &mut TableState) -> Result<TableState, OutOfStates> {
        let shares_own = state.own.is_some() && state.own == state.current;
        let (needed, available) = (1 + usize::from(shares_own), self.free.len() + self.idle.len());
        let out = OutOfStates { needed, available };
        if needed > available {
            return Err(out);
        }
        let own = self.take();
        if shares_own {
            let new = self.take();
            std::mem::replace(&mut state.own, new).into_iter().for_each(|slot| self.let_go(slot));
        }
        state.current.into_iter().for_each(|slot| self.hold(slot));
        Ok(TableState { tokens: state.tokens, current: state.current, own, snapshots: Vec::new() })
    }

    /// Takes back what a state uses: it is at the beginning then.
    pub(super) fn release(&mut self, state: &mut TableState) {
        let TableState { current, own, snapshots, .. } = std::mem::take(state);
        let slots = current.into_iter().chain(own).chain(snapshots.iter().map(|snapshot| snapshot.slot));
        slots.for_each(|slot| self.let_go(slot));
    }

    /// A block leaves the tree, and its snapshot with it.
    pub(super) fn forget(&mut self, block: BlockId) {
        if let Some(slot) = self.of_block[index(block)] {
            self.drop_snapshot(slot);
        }
    }

    /// Makes `slot` the snapshot of `block`, which is in the tree, unless it has one.
    fn keep(&mut self, block: BlockId, slot: StateSlot) {
        let place = &mut self.of_block[index(block)];
        if place.is_none() {
            *place = Some(slot);
            self.slots[slot.0 as usize].block = Some(block);
        }
    }

    /// A slot nobody uses, now used once.
    fn take(&mut self) -> Option<StateSlot> {
        if self.free.is_empty() {
            let (_, oldest) = *self.idle.first()?;
            self.drop_snapshot(oldest);
        }
        let slot = self.free.pop()?;
        self.slots[slot.0 as usize].references = 1;
        Some(slot)
    }

    /// A snapshot is none any more; its slot is free once no table uses it.
    fn drop_snapshot(&mut self, slot: StateSlot) {
        let state = &mut self.slots[slot.0 as usize];
        if let Some(block) = state.block.take() {
            self.of_block[index(block)] = None;
            self.evicted += 1;
        }
        if state.references == 0 {
            self.idle.remove(&(state.used, slot));
            self.free.push(slot);
        }
    }

    fn hold(&mut self, slot: StateSlot) {
        let state = &mut self.slots[slot.0 as usize];
        state.references += 1;
        if state.references == 1 {
            self.idle.remove(&(state.used, slot));
        }
    }

    fn let_go(&mut self, slot: StateSlot) {
        let state = &mut self.slots[slot.0 as usize];
        state.references -= 1;
        if state.references > 0 {
            return;
        }
        if state.block.is_none() {
            return self.free.push(slot);
        }
        self.clock += 1;
        state.used = self.clock;
        self.idle.insert((self.clock, slot));
    }
}

#[cfg(test)]
impl StateSlots {
    /// Checks what must hold between calls; `held` are the states of all tables there are.
    pub(super) fn check<'a>(
        &self,
        held: impl Iterator<Item = &'a TableState>,
        tree: &super::prefix::PrefixTree,
    ) {
        let (mut references, mut written) = (vec![0u32; self.slots.len()], BTreeSet::new());
        for state in held {
            let own = state.own.into_iter().chain(state.snapshots.iter().map(|snapshot| snapshot.slot));
            for slot in own {
                references[slot.0 as usize] += 1;
                assert!(written.insert(slot), "two states are written to {slot:?}");
            }
            state.current.into_iter().for_each(|slot| references[slot.0 as usize] += 1);
        }
        let (mut used, mut idle) = (0, 0);
        for (at, slot) in self.slots.iter().enumerate() {
            let name = StateSlot(at as u32);
            assert_eq!(slot.references, references[at], "slot {at} is used as often as it is counted");
            if let Some(block) = slot.block {
                assert_eq!(self.of_block[index(block)], Some(name));
                assert!(tree.contains(block), "a snapshot belongs to a cached block");
                assert!(!written.contains(&name), "a snapshot is written");
            }
            let is_idle = slot.references == 0 && slot.block.is_some();
            assert_eq!(
                self.idle.contains(&(slot.used, name)),
                is_idle,
                "slot {at} is listed when it is idle"
            );
            used += usize::from(slot.references > 0);
            idle += usize::from(is_idle);
        }
        assert_eq!(idle, self.idle.len());
        assert_eq!(used + idle + self.free.len(), self.slots.len(), "every slot is used, idle or free");
        let snapshots = self.of_block.iter().flatten().count();
        assert_eq!(snapshots, self.slots.iter().filter(|slot| slot.block.is_some()).count());
    }

    /// Slots free or evictable, and all there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.free.len() + self.idle.len(), self.slots.len())
    }
}
