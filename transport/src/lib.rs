//! How bytes move between ranks: registered regions, one-sided batched tagged writes, arrival counters and small
//! ordered messages.
//!
//! Mechanism only: what the bytes mean is the affair of whoever writes them. `contract` says what every way of moving
//! bytes promises, `domain` keeps the books of a process that all of them share.

pub mod collective;
pub mod contract;
pub mod core;
pub mod domain;
pub mod faulty;
pub mod inprocess;
pub mod selection;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
pub mod tcp;

pub use contract::{
    Access, Address, Attachment, Batch, BatchBuilder, BatchError, Caps, Channel, Claim, Completion,
    ConnectError, Denial, Key, KeyError, Kind, Memory, MemoryKind, Op, OpError, PeerId, PeerLoss, RailKey,
    RailStats, Region, RegionMemory, RegionSlice, RegisterError, Run, Stats, Tag, Transport, TransportExt,
};
pub use domain::{Counter, Domain, Message, PeerState};
