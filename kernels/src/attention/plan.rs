//! How the work of one call is cut into tasks.
//!
//! A pure function of the shapes; touches no data. Few queries are cut along the keys,
//! many along the queries. The pool decides who runs what.

use std::ops::Range;

use super::{AttentionShape, SequenceKv};

/// What to run, and what to put together afterwards.
pub(super) struct Plan {
    pub(super) tasks: Vec<Task>,
    pub(super) merges: Vec<Merge>,
    /// Floats of partial results.
    pub(super) partial_len: usize,
}

/// One task.
pub(super) enum Task {
    /// All queries of a key head over some of its keys, leaving a partial result.
    Few(FewTask),
    /// Some queries of a key head over all keys they see.
    Tile(TileTask),
}

pub(super) struct FewTask {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    pub(super) keys: Range<usize>,
    /// Where the partial result goes.
    pub(super) partial: usize,
}

pub(super) struct TileTask {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    /// The queries; see `AttentionShape::offset`.
    pub(super) rows: Range<usize>,
}

/// The partial results of a key head, one after another.
pub(super) struct Merge {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    pub(super) partial: usize,
    pub(super) parts: usize,
}

impl Plan {
    pub(super) fn new(sequences: &[SequenceKv<'_>], shape: &AttentionShape<'_>) -> Self {
        let mut plan = Self { tasks: Vec::new(), merges: Vec::new(), partial_len: 0 };
        for (index, sequence) in sequences.iter().enumerate() {
            for kv_head in 0..shape.kv_heads {
                match sequence.queries.len() * shape.group() {
                    0 => {}
                    rows if rows <= FEW_ROWS => plan.few(sequence, shape, (index, kv_head)),
                    rows => plan.tiles(index, kv_head, rows),
                }
            }
        }
        plan
    }

    fn few(
        &mut self,
        sequence: &SequenceKv<'_>,
        shape: &AttentionShape<'_>,
        (index, kv_head): (usize, usize),
    ) {
        let seen = shape.first_seen(sequence.length - sequence.queries.len())..sequence.length;
        // Of its own length only: a token's output must not depend on what else is in the batch, nor on the machine.
        let span = (seen.len() / MOST_PARTS).max(LEAST_SPAN).next_multiple_of(LEAST_SPAN);
        let parts = seen.len().div_ceil(span);
        let size = partial_size(sequence, shape);
        self.merges.push(Merge { sequence: index, kv_head, partial: self.partial_len, parts });
        for part in 0..parts {
            let keys = seen.start + part * span..seen.end.min(seen.start + (part + 1) * span);
            self.tasks.push(Task::Few(FewTask { sequence: index, kv_head, keys, partial: self.partial_len }));
            self.partial_len += size;
        }
    }

    fn tiles(&mut self, sequence: usize, kv_head: usize, rows: usize) {
        // The last queries see most keys: long tasks first, so that none is left at the end.
        for first in (0..rows).step_by(TILE_ROWS).rev() {
            let rows = first..rows.min(first + TILE_ROWS);
            self.tasks.push(Task::Tile(TileTask { sequence, kv_head, rows }));
        }
    }
}

/// Floats of one partial result: for each row the largest score, the sum of exponentials, the weighted values.
pub(super) fn partial_size(sequence: &SequenceKv<'_>, shape: &AttentionShape<'_>) -> usize {
    sequence.queries.len() * shape.group() * (shape.head_dim + 2)
}

/// Up to this many queries of a key head are kept side by side; more go across the lanes.
pub(super) const FEW_ROWS: usize = 8;
/// Queries of a tile task: a multiple of the tile of every instruction set.
pub(super) const TILE_ROWS: usize = 32;
/// About as many tasks a key head's keys are cut into at most.
const MOST_PARTS: usize = 16;
/// Fewest keys worth a task.
const LEAST_SPAN: usize = 128;
