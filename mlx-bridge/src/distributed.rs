//! MLX's own groups of processes: NCCL between the GPUs of a host, JACCL between Macs, a ring of sockets, MPI.
//!
//! MLX reads who takes part from the environment of the process (`MLX_RANK`, `MLX_WORLD_SIZE`, `NCCL_HOST_IP`,
//! `MLX_HOSTFILE` and so on, by backend), which whoever starts the process sets. Operations are nodes of the graph.

use cxx::UniquePtr;

use crate::array::{Array, returned};
use crate::error::{Error, ErrorKind, Result};
use crate::ffi::mlx as ffi;

/// How the processes of a group reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupBackend {
    /// NVIDIA's library, for arrays on GPUs.
    Nccl,
    /// RDMA over Thunderbolt between Macs.
    Jaccl,
    /// TCP sockets, for arrays on the CPU.
    Ring,
    /// An MPI library, for arrays on the CPU.
    Mpi,
}

impl GroupBackend {
    /// MLX's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nccl => "nccl",
            Self::Jaccl => "jaccl",
            Self::Ring => "ring",
            Self::Mpi => "mpi",
        }
    }

    /// Whether this build of MLX has it on this host.
    ///
    /// # Errors
    /// When MLX cannot tell.
    pub fn is_available(self) -> Result<bool> {
        ffi::group_available(self.name())
            .map_err(|error| Error::from_exception("group_available", &[], &error))
    }
}

/// The group of this process, of which it is one rank. Confined to its thread, as arrays are.
pub struct Group {
    handle: UniquePtr<ffi::Group>,
}

impl Group {
    /// Joins the group that the environment describes. Blocks until the other ranks have joined.
    ///
    /// # Errors
    /// When this build has no such backend, the environment names no group, or the ranks do not find each other.
    pub fn join(backend: GroupBackend) -> Result<Self> {
        const OP: &str = "group_join";
        let handle =
            ffi::group_init(backend.name()).map_err(|error| Error::from_exception(OP, &[], &error))?;
        if handle.is_null() {
            return Err(Error::new(OP, ErrorKind::Other, &[], "MLX returned no group"));
        }
        Ok(Self { handle })
    }

    /// Which of the ranks this is.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn rank(&self) -> Result<usize> {
        number("group_rank", ffi::group_rank(&self.handle))
    }

    /// How many ranks there are.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn size(&self) -> Result<usize> {
        number("group_size", ffi::group_size(&self.handle))
    }

    /// The sum over all ranks of what they pass: the same shape.
    ///
    /// # Errors
    /// When the backend cannot take such an array.
    pub fn all_sum(&self, x: &Array) -> Result<Array> {
        self.collect("all_sum", ffi::Collect::AllSum, x)
    }

    /// The largest over all ranks of what they pass: the same shape.
    ///
    /// # Errors
    /// When the backend cannot take such an array.
    pub fn all_max(&self, x: &Array) -> Result<Array> {
        self.collect("all_max", ffi::Collect::AllMax, x)
    }

    /// What all ranks pass, one after the other along the first axis.
    ///
    /// # Errors
    /// When the backend cannot take such an array.
    pub fn all_gather(&self, x: &Array) -> Result<Array> {
        self.collect("all_gather", ffi::Collect::AllGather, x)
    }

    /// This rank's part, along the first axis, of the sum over all ranks of what they pass.
    ///
    /// # Errors
    /// When the first axis does not divide by the number of ranks, or the backend cannot do this.
    pub fn sum_scatter(&self, x: &Array) -> Result<Array> {
        self.collect("sum_scatter", ffi::Collect::SumScatter, x)
    }

    fn collect(&self, op: &'static str, how: ffi::Collect, x: &Array) -> Result<Array> {
        returned(op, &[x], ffi::group_collect(how, x.raw(), &self.handle))
    }
}

fn number(op: &'static str, value: std::result::Result<i32, cxx::Exception>) -> Result<usize> {
    let value = value.map_err(|error| Error::from_exception(op, &[], &error))?;
    usize::try_from(value).map_err(|_| Error::new(op, ErrorKind::Other, &[], format!("MLX returned {value}")))
}
