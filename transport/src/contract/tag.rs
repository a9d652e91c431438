//! Names that both ends agree on beforehand: of arrivals that are counted together, of messages that are read together.

use std::fmt;

/// Which counter at the destination a batch counts in.
///
/// A tag is open from `Domain::expect` until its counter is dropped. A write whose tag is not open is refused, which
/// is how late writes of an aborted request are dropped: the request's next attempt has the next epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    /// What is counted, such as a request.
    pub id: u64,
    /// Which attempt at it.
    pub epoch: u32,
}

impl Tag {
    /// The first attempt at `id`.
    #[must_use]
    pub const fn new(id: u64) -> Self {
        Self { id, epoch: 0 }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.id, self.epoch)
    }
}

/// A sequence of messages from a peer, ordered and with flow control of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(pub u32);
