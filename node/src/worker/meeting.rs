//! A rank of a replica before it loads its part: it listens, and meets the others when it is told who they are.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use mlxcel_cluster_config::{Fingerprint, Identity};
use mlxcel_engine::replica::{Layout, ReplicaOptions, StageLayout};
use mlxcel_protocol::v1::{ReplicaEnd, ReplicaRank, ReplicaRoster};
use mlxcel_transport::selection::{Offer, Policy};
use mlxcel_transport::{PeerId, Transport};
use tracing::info;

use crate::data_plane::DataPlane;

/// A rank that listens.
pub(super) struct Listening {
    rank: ReplicaRank,
    layout: Layout,
    plane: DataPlane,
    key: Fingerprint,
}

/// A rank that knows whom to meet.
pub(super) struct Meeting {
    listening: Listening,
    roster: Vec<(Fingerprint, Offer)>,
}

impl Listening {
    /// Opens the rank's end of the data plane, with a key made for this replica.
    pub(super) fn start(rank: ReplicaRank) -> Result<Self, String> {
        let layout = layout(&rank)?;
        let identity = Identity::generate().map_err(|error| error.to_string())?;
        let plane =
            DataPlane::start(&identity).map_err(|error| format!("cannot open the data plane: {error}"))?;
        Ok(Self { rank, layout, plane, key: identity.fingerprint() })
    }

    /// Which attempt at which replica it is for.
    pub(super) fn replica(&self) -> &str {
        &self.rank.replica
    }

    /// Where the other ranks reach it.
    pub(super) fn end(&self) -> ReplicaEnd {
        let offer = serde_json::to_vec(&self.plane.offer()).expect("an offer is plain data");
        ReplicaEnd { fingerprint: self.key.to_string(), offer }
    }

    /// Is told who the ranks are, and lets them in.
    pub(super) fn told(self, roster: &ReplicaRoster) -> Result<Meeting, String> {
        let ends = roster.ends.iter().map(|end| {
            let key = end.fingerprint.parse().map_err(|_| "a rank's key is no fingerprint".to_owned())?;
            let offer = serde_json::from_slice(&end.offer)
                .map_err(|error| format!("a rank's offer is none: {error}"))?;
            Ok((key, offer))
        });
        let roster: Vec<(Fingerprint, Offer)> = ends.collect::<Result<_, String>>()?;
        let own = roster.get(self.rank.rank as usize);
        if roster.len() != self.layout.ranks() || own.is_none_or(|(key, _)| *key != self.key) {
            return Err(format!("the roster of replica {} is not this rank's", self.rank.replica));
        }
        roster.iter().for_each(|(key, _)| self.plane.trust().add(*key));
        Ok(Meeting { listening: self, roster })
    }
}

impl Meeting {
    /// Connects with every other rank: with those before it, and waits for those behind it.
    pub(super) fn meet(self) -> Result<ReplicaOptions, String> {
        let Self { listening: Listening { rank: part, layout, plane, .. }, roster } = self;
        let own = part.rank as usize;
        let selected = plane.selected(Policy::default());
        let deadline = Instant::now() + PATIENCE;
        for (rank, (_, offer)) in roster.iter().enumerate() {
            let missing =
                |error: &dyn fmt::Display| format!("rank {rank} of the replica cannot be reached: {error}");
            if rank < own {
                let choice = block_on(selected.connect_offered(offer, deadline));
                let choice = choice.map_err(|error| missing(&error))?;
                info!(replica = part.replica, rank, "connected: {choice}");
            } else if rank > own {
                let connected = block_on(selected.domain().connected(offer.peer, deadline));
                connected.map_err(|error| missing(&error))?;
            }
        }
        let ranks: Vec<PeerId> = roster.iter().map(|(_, offer)| offer.peer).collect();
        let transport: Arc<dyn Transport> = Arc::new(selected);
        let (blocks, step_tokens) = (part.kv_blocks as usize, part.step_tokens as usize);
        Ok(ReplicaOptions { layout, rank: own, ranks, transport, blocks, step_tokens, micro_batches: None })
    }
}

fn layout(rank: &ReplicaRank) -> Result<Layout, String> {
    let mut begin = 0;
    let stages = rank.stages.iter().map(|stage| {
        let layers = begin..begin + stage.layers as usize;
        begin = layers.end;
        StageLayout { layers, ranks: stage.ranks as usize }
    });
    let layout = Layout::new(stages.collect()).map_err(|error| error.to_string())?;
    if rank.rank as usize >= layout.ranks() || rank.kv_blocks == 0 || rank.step_tokens == 0 {
        let ReplicaRank { rank, kv_blocks, step_tokens, .. } = rank;
        let ranks = layout.ranks();
        return Err(format!(
            "rank {rank} of {ranks}, {kv_blocks} blocks, {step_tokens} tokens a step make no replica"
        ));
    }
    Ok(layout)
}

/// How long ranks wait for each other to connect.
const PATIENCE: Duration = Duration::from_secs(20);
