//! Which ranks of a replica are there: the first loss ends it, and every rank can say whose it was.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlxcel_transport::{Channel, PeerId, PeerState, TransportExt};

use super::member::ReplicaOptions;

/// The other ranks, as this one sees them.
pub(crate) struct Attendance {
    pub(super) options: ReplicaOptions,
    lost: OnceLock<String>,
}

impl Attendance {
    pub(super) fn new(options: ReplicaOptions) -> Self {
        Self { options, lost: OnceLock::new() }
    }

    /// All ranks but this one, with their numbers.
    pub(super) fn others(&self) -> impl Iterator<Item = (usize, PeerId)> {
        let ReplicaOptions { ranks, rank: own, .. } = &self.options;
        ranks.iter().copied().enumerate().filter(move |(rank, _)| rank != own)
    }

    /// Why no step can be computed any more: which rank was lost first, if one was.
    pub(crate) fn lost(&self) -> Option<String> {
        if self.lost.get().is_none() {
            let lost = self.others().find_map(|(rank, peer)| self.loss(rank, peer))?;
            // Another thread may have noticed it in the same moment.
            let _ = self.lost.set(lost);
        }
        self.lost.get().cloned()
    }

    /// Why a rank is lost, if it is: in its own words, where it left because of another.
    fn loss(&self, rank: usize, peer: PeerId) -> Option<String> {
        let domain = self.options.transport.domain();
        let PeerState::Lost(why) = domain.peer_state(peer) else { return None };
        let said = domain.try_receive(peer, FAREWELL);
        let said =
            said.and_then(|said| String::from_utf8(said.into()).ok()).filter(|said| said.len() < LONGEST);
        Some(said.unwrap_or_else(|| format!("rank {rank} of the replica was lost: {why}")))
    }

    /// Leaves the replica, which ends it. The others learn why.
    pub(super) fn leave(&self, reason: Option<&str>) {
        let transport = &self.options.transport;
        if let Some(reason) = reason {
            let (reason, deadline) = (Bytes::copy_from_slice(reason.as_bytes()), Instant::now() + PATIENCE);
            let said =
                self.others().map(|(_, peer)| transport.send(peer, FAREWELL, reason.clone(), deadline));
            let said: Vec<_> = said.collect();
            for said in said {
                // Who does not hear it sees this rank gone.
                let _ = transport.wait(said);
            }
        }
        self.others().for_each(|(_, peer)| transport.disconnect(peer));
    }
}

/// Why a rank leaves.
const FAREWELL: Channel = Channel(3);
const PATIENCE: Duration = Duration::from_millis(200);
const LONGEST: usize = 4096;
