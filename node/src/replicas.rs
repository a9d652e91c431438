//! This node's devices as ranks of replicas: each joins on its own, in a conversation with the router that planned it.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use mlxcel_protocol::v1::{
    FailureKind, JoinRank, JoinReplicaRequest, LoadProgress, LoadStep, ReplicaRank, ReplicaRoster,
    WorkerLoad, WorkerMeet, join_replica_request, load_progress,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::info;

use crate::models::{Models, ended};
use crate::supervisor::Slot;
use crate::wire;

/// Joins a replica as its caller says. The stream ends with one `ready` or `failed`.
pub(crate) fn join(
    models: Arc<Models>,
    requests: impl Stream<Item = JoinReplicaRequest> + Send + Unpin + 'static,
) -> BoxStream<'static, LoadProgress> {
    let (replies, stream) = mpsc::channel(REPLIES_AHEAD);
    tokio::spawn(async move {
        let joining = Joining { models, requests, replies: replies.clone() };
        if let Err((kind, message)) = joining.run().await {
            // Whoever asked may have gone.
            let _ = replies.send(wire::load_failed(kind, message)).await;
        }
    });
    ReceiverStream::new(stream).boxed()
}

type Refusal = (FailureKind, String);

struct Joining<R> {
    models: Arc<Models>,
    requests: R,
    replies: mpsc::Sender<LoadProgress>,
}

impl<R: Stream<Item = JoinReplicaRequest> + Send + Unpin> Joining<R> {
    async fn run(mut self) -> Result<(), Refusal> {
        let first = self.requests.next().await.and_then(|request| request.kind);
        let Some(join_replica_request::Kind::Rank(JoinRank {
            model: Some(model),
            device_index,
            rank: Some(rank),
        })) = first
        else {
            return Err((
                FailureKind::InvalidRequest,
                "a replica is joined by naming model and rank first".into(),
            ));
        };
        let slots = Arc::clone(self.models.slots());
        let Some(slot) = slots.get(device_index as usize) else {
            let message =
                format!("the node has {} devices, device {device_index} was asked for", slots.len());
            return Err((FailureKind::InvalidRequest, message));
        };
        let looking = LoadStep { what: format!("looking for {}", model.model), ..LoadStep::default() };
        reply(&self.replies, LoadProgress { kind: Some(load_progress::Kind::Step(looking)) }).await;
        let load = WorkerLoad { rank: Some(rank.clone()), ..self.models.worker_load(model).await? };
        info!(model = load.served_name, replica = rank.replica, rank = rank.rank, "joining a replica");
        self.follow(slot, load, rank).await;
        Ok(())
    }

    /// Passes on what the rank says and what it is told, until it is ready or has failed. A caller that goes away
    /// before that gives it up.
    async fn follow(&mut self, slot: &Slot, load: WorkerLoad, rank: ReplicaRank) {
        let (name, mut told) = (load.served_name.clone(), false);
        let mut progress = slot.load(load);
        loop {
            tokio::select! {
                step = progress.next() => {
                    let Some(step) = step else { return };
                    let last = ended(&step);
                    reply(&self.replies, step).await;
                    if last {
                        return;
                    }
                }
                request = self.requests.next(), if !told => match request.and_then(|request| request.kind) {
                    Some(join_replica_request::Kind::Roster(roster)) => {
                        told = true;
                        slot.meet(meet(&name, &rank, roster));
                    }
                    _ => break,
                },
                () = self.replies.closed() => break,
            }
        }
        slot.unload(&name).await;
    }
}

async fn reply(replies: &mpsc::Sender<LoadProgress>, progress: LoadProgress) {
    // That the caller has gone is seen where it matters.
    let _ = replies.send(progress).await;
}

fn meet(name: &str, rank: &ReplicaRank, roster: ReplicaRoster) -> WorkerMeet {
    WorkerMeet { served_name: name.to_owned(), replica: rank.replica.clone(), roster: Some(roster) }
}

const REPLIES_AHEAD: usize = 16;
