//! Operations between the ranks of a replica, as nodes of the graph.
//!
//! One interface, [`Ranks`]: over the transport, for arrays of the CPU (`HostRanks`), and over MLX's own groups, where
//! the hardware has better (`MlxRanks`). Who the ranks are and how they reach each other is decided by who makes one.

mod host;
mod mlx;

pub use host::HostRanks;
pub use mlx::MlxRanks;

use std::sync::Arc;

use mlxcel_mlx_bridge::{Array, Result};

/// Replaces values of this rank by their sums over all ranks; or why it cannot.
pub(crate) type SumWithin = Arc<dyn Fn(&mut [f32]) -> std::result::Result<(), String> + Send + Sync>;

/// The ranks of a replica, seen by one of them. Every rank builds the same operations in the same order.
pub trait Ranks {
    /// Which of the ranks this is.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// The sum over all ranks of what they pass, arrays of one shape and dtype: the same bits on every rank.
    ///
    /// # Errors
    /// When the group cannot take such an array. That a rank was lost surfaces where the result is evaluated.
    fn all_sum(&self, x: &Array) -> Result<Array>;

    /// The sum as a function for kernels of the CPU, which it is called in: nodes of the graph cost more than small
    /// sums do. None where ranks meet elsewhere.
    fn sum_within(&self) -> Option<SumWithin> {
        None
    }

    /// What all ranks pass, arrays of one shape and dtype, one after the other along the first axis.
    ///
    /// # Errors
    /// As [`all_sum`](Self::all_sum).
    fn all_gather(&self, x: &Array) -> Result<Array>;
}

#[cfg(test)]
mod tests;
