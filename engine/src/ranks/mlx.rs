//! Ranks over MLX's own groups: NCCL between the GPUs of a host, JACCL between Macs.

use mlxcel_mlx_bridge::distributed::{Group, GroupBackend};
use mlxcel_mlx_bridge::{Array, Result};

use super::Ranks;

/// A group of MLX.
pub struct MlxRanks {
    group: Group,
    rank: usize,
    size: usize,
}

impl MlxRanks {
    /// Joins the group that the environment of this process describes.
    ///
    /// # Errors
    /// When this build of MLX has no such backend, or the ranks do not find each other.
    pub fn join(backend: GroupBackend) -> Result<Self> {
        let group = Group::join(backend)?;
        let (rank, size) = (group.rank()?, group.size()?);
        Ok(Self { group, rank, size })
    }
}

impl Ranks for MlxRanks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_sum(&self, x: &Array) -> Result<Array> {
        self.group.all_sum(x)
    }

    fn all_gather(&self, x: &Array) -> Result<Array> {
        self.group.all_gather(x)
    }
}
