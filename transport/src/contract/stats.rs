//! What a transport has done and is doing.

use super::PeerId;

/// A moment's figures of one transport.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Payload bytes that peers acknowledged.
    pub bytes_out: u64,
    /// Payload bytes that arrived in whole batches or messages.
    pub bytes_in: u64,
    /// Operations that are not done.
    pub in_flight: usize,
    /// Slices that were sent again, because the rail that carried them was lost.
    pub resent: u64,
    /// The rails of every peer.
    pub rails: Vec<RailStats>,
}

/// A moment's figures of one rail.
#[derive(Clone, Debug, PartialEq)]
pub struct RailStats {
    /// Who is at the other end.
    pub peer: PeerId,
    /// Which of the peer's rails.
    pub rail: u16,
    /// Bytes a second it lately carried while it was busy; 0 before anything was measured.
    pub rate: f64,
    /// Bytes handed to it that are not acknowledged.
    pub in_flight: u64,
    /// Whether it is given new work.
    pub usable: bool,
}
