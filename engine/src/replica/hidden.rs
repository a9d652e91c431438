//! Hidden states on their way from one stage to the next: written into slots that the ranks of the next stage have
//! registered, by a node of the sender's graph, and read out of them by a node of the receiver's.
//!
//! A slot is used again when all others have been. There is one more than the leader keeps steps under way, and a step is
//! done when the last stage is: what was in a slot has been read by then, so nobody gives credit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mlxcel_mlx_bridge::{Array, Dtype, FailureWatch, Result, eval, host_op_single};
use mlxcel_transport::{Access, Batch, Counter, Key, Memory, Op, OpError, PeerId, Region, Tag};
use mlxcel_transport::{RegisterError, Transport, TransportExt};
use parking_lot::Mutex;

use super::member::JoinError;

/// The slots between two stages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots {
    count: usize,
    /// Of each.
    bytes: usize,
}

impl Slots {
    /// Those of a replica that keeps at most `steps` steps under way, of at most so many bytes each.
    pub(super) const fn new(steps: usize, bytes: usize) -> Self {
        Self { count: steps + 1, bytes }
    }

    /// The slot of a step, and how often it was used before.
    const fn of(self, step: usize) -> (usize, usize) {
        (step % self.count, step / self.count)
    }

    fn memory(self) -> std::result::Result<Memory, RegisterError> {
        Memory::zeroed(self.count * self.bytes)
    }
}

/// How long a rank waits for another in a step. That one is lost is known in a second; that it computes takes as long as
/// it does.
pub(super) const STEP_PATIENCE: Duration = Duration::from_secs(600);

/// Where the stage before writes its hidden states.
pub(super) struct Inlet {
    shared: Arc<InletMemory>,
    slots: Slots,
    steps: usize,
}

struct InletMemory {
    transport: Arc<dyn Transport>,
    region: Region,
    /// Of each slot: how often it was filled.
    counters: Vec<Counter>,
}

impl Inlet {
    /// Opens slots to be filled by `from`.
    pub(super) fn open(
        transport: &Arc<dyn Transport>,
        from: PeerId,
        slots: Slots,
    ) -> std::result::Result<Self, JoinError> {
        let region = transport.register(slots.memory()?, Access::WRITE)?;
        let open = |slot: usize| transport.domain().expect(tag(slot), &[from]);
        let counters = (0..slots.count).map(open).collect::<std::result::Result<_, _>>();
        let counters = counters.map_err(|error| JoinError::Disagreement(error.to_string()))?;
        let shared = Arc::new(InletMemory { transport: Arc::clone(transport), region, counters });
        Ok(Self { shared, slots, steps: 0 })
    }

    /// With which the stage before writes.
    pub(super) fn key(&self) -> Key {
        self.shared.region.key()
    }

    /// The hidden states of the next step, `shape`: a node of the graph that waits for them.
    pub(super) fn receive(&mut self, shape: [i32; 2], dtype: Dtype) -> Result<Array> {
        let (slot, round) = self.slots.of(self.steps);
        self.steps += 1;
        let (shared, room) = (Arc::clone(&self.shared), self.slots.bytes);
        host_op_single("receive_hidden", &[], &shape, dtype, move |_, output| {
            let bytes = output.bytes_mut();
            if bytes.len() > room {
                return Err(format!("a step's hidden states have {} bytes, a slot {room}", bytes.len()));
            }
            let filled = shared.counters[slot].reached(round as u64 + 1, Instant::now() + STEP_PATIENCE);
            let waited = shared.transport.wait(filled);
            waited.map_err(|error| format!("no hidden states came from the stage before: {error}"))?;
            shared.region.read_at(slot * room, bytes);
            Ok(())
        })
    }
}

/// Writes hidden states to the ranks of the next stage.
pub(super) struct Outlet {
    shared: Arc<Mutex<OutletMemory>>,
    watch: Arc<FailureWatch>,
    slots: Slots,
    steps: usize,
}

struct OutletMemory {
    transport: Arc<dyn Transport>,
    staging: Region,
    /// Where each rank of the next stage reads.
    targets: Vec<Key>,
    /// Of each slot: the writes that read it.
    posted: Vec<Vec<Op>>,
}

impl Outlet {
    /// To inlets of these keys, which have the same slots. On the thread that will build the graphs.
    pub(super) fn open(
        transport: &Arc<dyn Transport>,
        targets: Vec<Key>,
        slots: Slots,
    ) -> std::result::Result<Self, JoinError> {
        let staging = transport.register(slots.memory()?, Access::LOCAL)?;
        let posted = std::iter::repeat_with(Vec::new).take(slots.count).collect();
        let shared = OutletMemory { transport: Arc::clone(transport), staging, targets, posted };
        let watch = Arc::<FailureWatch>::default();
        begin(&watch).map_err(|error| JoinError::Disagreement(error.to_string()))?;
        Ok(Self { shared: Arc::new(Mutex::new(shared)), watch, slots, steps: 0 })
    }

    /// Passes `hidden` on when it is computed: an array, of no meaning, whose evaluation does that.
    pub(super) fn send(&mut self, hidden: &Array) -> Result<Array> {
        let (slot, _) = self.slots.of(self.steps);
        self.steps += 1;
        let (shared, room, watch) = (Arc::clone(&self.shared), self.slots.bytes, Arc::clone(&self.watch));
        host_op_single("send_hidden", &[hidden], &[1], Dtype::Uint8, move |inputs, output| {
            output.bytes_mut().fill(0);
            // The next stage would go on with what a failure left here.
            watch.check()?;
            let sent = shared.lock().send(slot, room, inputs[0].bytes());
            sent.map_err(|error| format!("hidden states do not reach the next stage: {error}"))
        })
    }
}

/// Watches the stream from now on.
fn begin(watch: &Arc<FailureWatch>) -> Result<()> {
    let watch = Arc::clone(watch);
    let begun = host_op_single("watch", &[], &[1], Dtype::Uint8, move |_, output| {
        output.bytes_mut().fill(0);
        watch.check()
    });
    eval(&[&begun?])
}

impl OutletMemory {
    fn send(&mut self, slot: usize, room: usize, hidden: &[u8]) -> std::result::Result<(), OpError> {
        for op in std::mem::take(&mut self.posted[slot]) {
            self.transport.wait(op)?;
        }
        let at = slot * room;
        self.staging.write_at(at, hidden);
        let deadline = Instant::now() + STEP_PATIENCE;
        for target in &self.targets {
            let (from, to) = ((&self.staging, at as u64), (target, at as u64));
            // The slots of both sides were agreed on when the replica was formed.
            let batch = Batch::single(from, to, hidden.len() as u64).map_err(|_| OpError::Cancelled)?;
            self.posted[slot].push(self.transport.write(&batch, tag(slot), deadline));
        }
        self.transport.stop_driving();
        Ok(())
    }
}

/// What is written to a slot is counted by itself: steps may overtake each other on several rails.
fn tag(slot: usize) -> Tag {
    Tag::new(slot as u64)
}
