//! Keys and values of every sequence in flight.
//!
//! One interface, `KvCache`: room for a sequence, attention that writes and reads it, release.
//! Storage is contiguous per sequence: in host memory for our CPU kernels (`HostKv`), in MLX arrays
//! for everything else (`GraphKv`). Who runs when is the scheduler's decision.

mod graph;
mod host;

pub(crate) use graph::GraphKv;
pub(crate) use host::HostKv;

use mlxcel_mlx_bridge::{Array, Error, ErrorKind, Result};

use crate::decoder::{Attention, StepInputs};
use crate::schedule::SequenceId;

/// The KV cache of one rank.
pub(crate) trait KvCache {
    /// Begins a sequence; its first span starts at position 0.
    fn open(&mut self, sequence: SequenceId);

    /// Appends the step's keys and values, `[tokens, kv_heads, head_dim]`, to their sequences in
    /// `layer` and attends with its queries, `[tokens, heads, head_dim]`: `[tokens, heads, head_dim]`.
    ///
    /// # Errors
    /// When shapes disagree with `attention` or a sequence of the step is not open.
    fn attend(
        &mut self,
        layer: usize,
        attention: &Attention,
        query_key_value: [&Array; 3],
        step: &StepInputs,
    ) -> Result<Array>;

    /// Forgets a sequence. Its last step has been evaluated.
    fn close(&mut self, sequence: SequenceId);

    /// Bytes held now.
    fn bytes(&self) -> u64;
}

fn not_open(sequence: SequenceId) -> Error {
    defect(&format!("sequence {} is not open", sequence.0))
}

/// A caller broke the cache's contract.
fn defect(message: &str) -> Error {
    Error { op: "attend", kind: ErrorKind::Argument, operands: String::new(), message: message.to_owned() }
}
