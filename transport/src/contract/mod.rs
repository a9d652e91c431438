//! The contract that every way of moving bytes keeps.
//!
//! Push is the primitive: a batch of runs is written into regions that the peer registered, and a counter at the peer
//! says when it has arrived whole. Receivers trust their counters and nothing else, never the order of arrival, so
//! that a batch may be cut into slices and striped over rails. Knows no sockets, no devices and no tensors.

mod address;
mod batch;
mod blocking;
mod caps;
mod key;
mod op;
mod region;
mod stats;
mod tag;
mod transport;

pub use address::{Address, Kind, PeerId};
pub(crate) use batch::lies_within;
pub use batch::{Batch, BatchBuilder, BatchError, Run};
pub(crate) use blocking::block_on;
pub use caps::{Caps, MemoryKind};
pub use key::{Key, KeyError, RailKey};
pub(crate) use op::State as OpState;
pub use op::{Claim, Completion, Denial, Op, OpError};
pub use region::{Access, Attachment, Memory, Region, RegionMemory, RegionSlice, RegisterError};
pub use stats::{RailStats, Stats};
pub use tag::{Channel, Tag};
pub use transport::{ConnectError, PeerLoss, Transport, TransportExt};
