//! Forms a replica: has every node join one of its devices, tells them of each other, and follows them until all have
//! loaded their part.
//!
//! Runs to its end even if no request waits any more, as loading does. A rank that fails fails the replica: the others
//! are given up, and so end by themselves.

use std::time::Duration;

use futures::future::try_join_all;
use mlxcel_protocol::v1::join_replica_request::Kind as Told;
use mlxcel_protocol::v1::load_progress::Kind;
use mlxcel_protocol::v1::{
    FailureKind, JoinRank, JoinReplicaRequest, LoadModelRequest, LoadProgress, ReplicaEnd, ReplicaRank,
    ReplicaRoster, ReplicaStage,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::core::assembly::Assembly;
use crate::core::fleet::Failed;
use crate::nodes::roster::{Link, Roster};

/// Forms the replica and tells the roster when that has ended.
pub(super) async fn assemble(roster: Roster, assembly: Assembly, links: Vec<Link>) {
    let Assembly { model, ranks, stages, why, .. } = &assembly;
    let nodes: Vec<String> = ranks.iter().map(|rank| format!("{}:{}", rank.node, rank.device)).collect();
    tracing::info!(%model, ?stages, ranks = nodes.join(" "), why = why.join("; "), "forming a replica");
    let formed = form(&assembly, links).await;
    let leader = &ranks[leader(&assembly)].node;
    match &formed {
        Ok(()) => tracing::info!(%model, %leader, "replica formed"),
        Err(Broken { rank, message, .. }) => {
            tracing::warn!(%model, node = %ranks[*rank].node, "no replica: rank {rank}: {message}");
        }
    }
    roster.assembly_ended(model, formed.map(|()| leader).map_err(|broken| broken.failed));
}

/// The first rank of the last stage.
fn leader(assembly: &Assembly) -> usize {
    let last = assembly.stages.last().map_or(0, |(_, ranks)| *ranks as usize);
    assembly.ranks.len() - last
}

/// Which rank failed, and how.
struct Broken {
    rank: usize,
    message: String,
    failed: Failed,
}

async fn form(assembly: &Assembly, links: Vec<Link>) -> Result<(), Broken> {
    // Unlike any other: what is left of an earlier attempt is not taken for this one.
    let replica = format!("{:016x}", rand::random::<u64>());
    let losses: Vec<_> = links.iter().map(|link| link.loss.clone()).collect();
    let joined = async {
        let joining = links.into_iter().enumerate().map(|(rank, link)| {
            Conversation::open(rank, link, join_request(assembly, &replica, rank), DEVICE_PATIENCE)
        });
        let mut conversations = try_join_all(joining).await?;
        let ends = conversations.iter().map(|it| it.end.clone()).collect();
        let roster = ReplicaRoster { ends };
        // One after the other: a rank connects to those before it, which must have been told to let it in.
        for conversation in &mut conversations {
            conversation.tell(roster.clone()).await?;
        }
        try_join_all(conversations.iter_mut().map(Conversation::ready)).await.map(|_| ())
    };
    let lost =
        losses.iter().enumerate().map(|(rank, loss)| Box::pin(async move { (rank, loss.wait().await) }));
    tokio::select! {
        joined = joined => joined,
        ((rank, cause), ..) = futures::future::select_all(lost) => {
            Err(Broken { rank, message: format!("its node was lost: {cause}"), failed: Failed::ForNow })
        }
    }
}

fn join_request(assembly: &Assembly, replica: &str, rank: usize) -> JoinReplicaRequest {
    let stage = |(layers, ranks): &(u32, u32)| ReplicaStage { layers: *layers, ranks: *ranks };
    let part = ReplicaRank {
        replica: replica.to_owned(),
        rank: u32::try_from(rank).unwrap_or(u32::MAX),
        stages: assembly.stages.iter().map(stage).collect(),
        kv_blocks: assembly.kv_blocks,
        step_tokens: assembly.step_tokens,
    };
    let model = LoadModelRequest { model: assembly.model.clone(), ..LoadModelRequest::default() };
    let device_index = assembly.ranks[rank].device;
    let join = JoinRank { model: Some(model), device_index, rank: Some(part) };
    JoinReplicaRequest { kind: Some(Told::Rank(join)) }
}

/// What is said with one rank. Dropping it gives the rank up, until it is ready.
struct Conversation {
    rank: usize,
    told: mpsc::Sender<JoinReplicaRequest>,
    progress: Streaming<LoadProgress>,
    end: ReplicaEnd,
}

impl Conversation {
    /// Has a device join, and waits until it listens.
    async fn open(
        rank: usize,
        mut link: Link,
        join: JoinReplicaRequest,
        patience: Duration,
    ) -> Result<Self, Broken> {
        let (told, requests) = mpsc::channel(2);
        // There is room for both.
        let _ = told.send(join).await;
        let opened = link.client.join_replica(ReceiverStream::new(requests)).await;
        let progress = opened.map_err(|status| broken(rank, &status))?.into_inner();
        let mut conversation = Self { rank, told, progress, end: ReplicaEnd::default() };
        let listening = async {
            loop {
                if let Kind::Listening(end) = conversation.next().await? {
                    return Ok(end);
                }
            }
        };
        let end =
            timeout(patience, listening).await.unwrap_or_else(|_| Err(late(rank, "listen", patience)))?;
        conversation.end = end;
        Ok(conversation)
    }

    /// Tells the rank whom to meet, and waits until it lets them in.
    async fn tell(&mut self, roster: ReplicaRoster) -> Result<(), Broken> {
        // A node that does not read is lost, which ends this.
        let _ = self.told.send(JoinReplicaRequest { kind: Some(Told::Roster(roster)) }).await;
        let rank = self.rank;
        let said = timeout(MEETING_PATIENCE, self.next()).await;
        said.unwrap_or_else(|_| Err(late(rank, "let the others in", MEETING_PATIENCE))).map(|_| ())
    }

    async fn ready(&mut self) -> Result<(), Broken> {
        while !matches!(self.next().await?, Kind::Ready(_)) {}
        Ok(())
    }

    /// What the rank says next, unless it has failed.
    async fn next(&mut self) -> Result<Kind, Broken> {
        let rank = self.rank;
        loop {
            match self.progress.message().await.map_err(|status| broken(rank, &status))? {
                Some(LoadProgress { kind: Some(Kind::Failed(failure)) }) => {
                    let message = failure.message.clone();
                    let for_now = matches!(
                        failure.kind(),
                        FailureKind::WorkerLost | FailureKind::Draining | FailureKind::Overloaded
                    );
                    let failed = if for_now { Failed::ForNow } else { Failed::ForGood(message.clone()) };
                    return Err(Broken { rank, message, failed });
                }
                Some(LoadProgress { kind: Some(said) }) => return Ok(said),
                Some(LoadProgress { kind: None }) => {}
                None => {
                    let message = "the node ended the conversation without a result".to_owned();
                    return Err(Broken { rank, message, failed: Failed::ForNow });
                }
            }
        }
    }
}

fn broken(rank: usize, status: &tonic::Status) -> Broken {
    Broken { rank, message: status.message().to_owned(), failed: Failed::ForNow }
}

fn late(rank: usize, what: &str, patience: Duration) -> Broken {
    let message = format!("the node did not {what} within {} s", patience.as_secs());
    Broken { rank, message, failed: Failed::ForNow }
}

/// Files may have to be fetched first.
const DEVICE_PATIENCE: Duration = Duration::from_secs(3600);
const MEETING_PATIENCE: Duration = Duration::from_secs(10);
