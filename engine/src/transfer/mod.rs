//! Computed prefixes on their way from one engine's KV cache to another's.
//!
//! `layout` says how a cache lies, `plan` what goes where between two that are divided or stored differently, `area`
//! where blocks are on their way, `door` what an engine gives and takes. Moves no bytes between processes and decides nothing.

mod area;
mod described;
mod door;
mod layout;
mod plan;
#[cfg(test)]
mod plan_tests;
mod storage;
mod tap;

pub use area::{AreaError, LandingArea};
pub use door::{
    BlockSink, BlockSource, CacheDescription, ImagePlace, ImportError, ModelIdentity, Prefix, PrefixDoor,
};
pub use layout::{CacheLayout, LayerHeads, MalformedLayout, RowOrder};
pub use plan::{MappingError, Portion, TransferPlan};
pub use storage::RowStorage;
pub(crate) use tap::Tap;
