//! The protocol of transports that run over reliable streams, as a state machine: no sockets, no clock, no tasks.
//!
//! A [`Link`] keeps the books of one peer: what is to be sent, in which slices, over which rail; what has arrived in
//! part; who acknowledges what. It ends operations and tells the domain what arrived. A driver owns the sockets: it
//! asks `next_frame` for what to write, shows each frame that arrives to `receive`, which says where the payload goes,
//! and says `placed` when it is there.
//!
//! A batch travels in slices, on whichever rail asks next, and is acknowledged as a whole. When a rail is lost, slices
//! of unacknowledged batches that it carried go again over others, after a frame that has the peer close its end of
//! the lost rail first: no byte of it is placed after a batch has been counted.

mod answering;
mod frame;
pub mod hello;
mod incoming;
mod link;
mod outgoing;
mod rails;
mod receiving;
mod sending;

use std::time::Duration;

pub use frame::{Frame, FrameHead, HEADER_BYTES, Head, Header, MAX_FURTHER_RUNS, Payload, RUN_BYTES, Verb};
pub use link::{Link, LinkEvent};
pub use rails::RailId;
pub use receiving::{Placement, Target};

/// What both ends of a link agree on, and how patient this one is.
#[derive(Clone, Copy, Debug)]
pub struct LinkConfig {
    /// The most payload of a frame. Longer runs are cut, shorter ones put together.
    pub slice_bytes: usize,
    /// After how long without anything else to say a sign of life is given on a rail.
    pub sign_after: Duration,
    /// How long a rail may be silent, while others are not, before it is given up.
    pub rail_stall: Duration,
    /// How long all rails together may be silent, or missing, before the peer counts as lost.
    pub silence_limit: Duration,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            slice_bytes: 1 << 20,
            sign_after: Duration::from_millis(200),
            rail_stall: Duration::from_millis(600),
            silence_limit: Duration::from_millis(900),
        }
    }
}

/// The peer sent what no correct peer sends. Its link is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke the protocol: {0}")]
pub struct ProtocolError(pub &'static str);

#[cfg(test)]
mod tests;
