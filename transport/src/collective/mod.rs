//! Collective operations of a group of ranks, written once over the transport contract.
//!
//! Every rank calls the same operations in the same order; all ranks get the same bits. Small operations are an
//! exchange: everyone writes to everyone's slot, waits for its counters and reduces in rank order. Larger ones go
//! around a ring in segments (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
//! workstations", 2009). Knows no arrays and no models; calls block, and drive the transport while they wait.

mod element;
mod exchange;
mod forming;
mod group;
mod lane;
mod ring;
mod slots;
mod waiting;

pub use element::{Element, Reduction};
pub use forming::{FormError, GroupConfig};
pub use group::Group;

use crate::OpError;

/// A group of ranks as one of them sees it.
pub trait Collective: Send {
    /// Which of the ranks this is.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Replaces `data` with the reduction over all ranks of what they pass: the same number of elements each.
    ///
    /// # Errors
    /// When a rank is lost or late, or was passed another number of bytes, after which the group is of no use; when
    /// `data` is not a whole number of elements.
    fn all_reduce(
        &mut self,
        data: &mut [u8],
        element: Element,
        reduction: Reduction,
    ) -> Result<(), CollectiveError>;

    /// Writes to `all` what every rank passes as `mine`, in the order of ranks. `all` is `size` times as long.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    fn all_gather(&mut self, mine: &[u8], all: &mut [u8]) -> Result<(), CollectiveError>;

    /// Writes to `mine` this rank's part, of `size` equal ones, of the reduction over what all ranks pass as `all`.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    fn reduce_scatter(
        &mut self,
        all: &[u8],
        mine: &mut [u8],
        element: Element,
        reduction: Reduction,
    ) -> Result<(), CollectiveError>;

    /// Replaces `data` with what rank `root` passes.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce), and when there is no such rank.
    fn broadcast(&mut self, root: usize, data: &mut [u8]) -> Result<(), CollectiveError>;
}

/// Why a collective operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// A rank died, hangs or cannot be reached.
    #[error("rank {0} was lost")]
    RankLost(usize),
    /// A rank did not take part in time.
    #[error("rank {0} did not take part in time")]
    Late(usize),
    /// A rank refuses what it was to take part in: its group is gone.
    #[error("rank {0} has left the group")]
    Left(usize),
    /// A rank was passed another number of bytes, or calls another operation.
    #[error(
        "rank {rank} takes part with {theirs} bytes where this rank has {ours}; all ranks must call the same operation"
    )]
    Disagreement {
        /// Which rank.
        rank: usize,
        /// How many bytes it sent.
        theirs: u64,
        /// How many were expected of it.
        ours: u64,
    },
    /// An operation failed before, and the ranks no longer agree on which is next.
    #[error("an earlier operation of this group failed; form a new one")]
    Broken,
    /// A buffer is not a whole number of elements.
    #[error("{bytes} bytes are not a whole number of elements of {element} bytes")]
    Ragged {
        /// How long the buffer is.
        bytes: usize,
        /// How long an element is.
        element: usize,
    },
    /// Two buffers do not go together.
    #[error(
        "the buffer of all {size} ranks must have {size} times the {mine} bytes of one rank's, got {all}"
    )]
    Lengths {
        /// How many ranks there are.
        size: usize,
        /// The length of one rank's buffer.
        mine: usize,
        /// The length of the buffer of all ranks.
        all: usize,
    },
    /// There is no such rank.
    #[error("there is no rank {rank} in a group of {size}")]
    NoSuchRank {
        /// Which rank was named.
        rank: usize,
        /// How many ranks there are.
        size: usize,
    },
}

impl CollectiveError {
    /// How an operation with `rank` ended.
    const fn of(rank: usize, error: OpError) -> Self {
        match error {
            OpError::PeerLost => Self::RankLost(rank),
            OpError::Timeout => Self::Late(rank),
            OpError::AccessDenied(_) | OpError::Cancelled => Self::Left(rank),
        }
    }
}

#[cfg(test)]
mod tests;
