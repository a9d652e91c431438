//! The gRPC `Node` service: who calls is judged here, what is done is `host`'s business.
//!
//! One instance serves one connection, whose TLS handshake proved the caller's key. Knows nothing
//! of workers.

mod beats;
mod serve;
mod state;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, StreamExt};
use mlxcel_cluster_config::claim::Hello;
use mlxcel_cluster_config::watch::WatchEvent;
use mlxcel_cluster_config::{Fingerprint, LinkCause};
use mlxcel_protocol::PROTOCOL_VERSION;
use mlxcel_protocol::v1::node_server::Node;
use mlxcel_protocol::v1::{
    Beat, CancelReply, CancelRequest, GenerateEvent, GenerateRequest, HelloReply, HelloRequest,
    JoinReplicaRequest, LoadModelRequest, LoadProgress, MovePrefixEvent, MovePrefixRequest, NodeState,
    UnloadModelReply, UnloadModelRequest, WatchBeatsRequest, WatchStateRequest,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::host::{CallerId, Host};
use crate::trust::Trust;

pub(crate) use serve::Server;

/// One connection.
struct Session {
    host: Arc<Host>,
    trust: Arc<Trust>,
    /// The key TLS proved.
    caller: Fingerprint,
    /// Tells this connection's requests from others'.
    id: CallerId,
    introduced: AtomicBool,
    /// Ends the streams that would go on for ever.
    stopping: CancellationToken,
}

type EventsOf<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Node for Session {
    type WatchStateStream = EventsOf<NodeState>;
    type WatchBeatsStream = EventsOf<Beat>;
    type JoinReplicaStream = EventsOf<LoadProgress>;
    type LoadModelStream = EventsOf<LoadProgress>;
    type GenerateStream = EventsOf<GenerateEvent>;
    type MovePrefixStream = EventsOf<MovePrefixEvent>;

    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let request = request.into_inner();
        let newly_claimed = self.introduce(&request).map_err(|cause| {
            let (id, name) = (self.caller, printable(&request.cluster_name));
            let status = refusal(&cause);
            self.trust.tell(WatchEvent::RouterRefused { id, name, cause });
            status
        })?;
        if !self.introduced.swap(true, Ordering::SeqCst) {
            self.trust.tell(WatchEvent::RouterConnected(self.caller));
        }
        Ok(Response::new(HelloReply {
            protocol_version: PROTOCOL_VERSION,
            software_version: env!("CARGO_PKG_VERSION").into(),
            node: Some(self.host.info()),
            newly_claimed,
        }))
    }

    async fn watch_state(
        &self,
        _: Request<WatchStateRequest>,
    ) -> Result<Response<Self::WatchStateStream>, Status> {
        self.admit()?;
        let states = state::watch(Arc::clone(&self.host));
        let states = states.take_until(self.stopping.clone().cancelled_owned());
        Ok(Response::new(states.map(Ok).boxed()))
    }

    async fn watch_beats(
        &self,
        _: Request<WatchBeatsRequest>,
    ) -> Result<Response<Self::WatchBeatsStream>, Status> {
        self.admit()?;
        let beats = beats::watch(Arc::clone(&self.host));
        let beats = beats.take_until(self.stopping.clone().cancelled_owned());
        Ok(Response::new(beats.map(Ok).boxed()))
    }

    async fn load_model(
        &self,
        request: Request<LoadModelRequest>,
    ) -> Result<Response<Self::LoadModelStream>, Status> {
        self.admit()?;
        let progress = self.host.load(request.into_inner());
        Ok(Response::new(progress.map(Ok).boxed()))
    }

    async fn unload_model(
        &self,
        request: Request<UnloadModelRequest>,
    ) -> Result<Response<UnloadModelReply>, Status> {
        self.admit()?;
        let was_loaded = self.host.unload(&request.into_inner().model).await;
        Ok(Response::new(UnloadModelReply { was_loaded }))
    }

    async fn join_replica(
        &self,
        request: Request<Streaming<JoinReplicaRequest>>,
    ) -> Result<Response<Self::JoinReplicaStream>, Status> {
        self.admit()?;
        // A call that breaks says no more than one that ends.
        let requests = request.into_inner().filter_map(|request| std::future::ready(request.ok()));
        let progress = self.host.join_replica(requests);
        Ok(Response::new(progress.map(Ok).boxed()))
    }

    async fn move_prefix(
        &self,
        request: Request<Streaming<MovePrefixRequest>>,
    ) -> Result<Response<Self::MovePrefixStream>, Status> {
        self.admit()?;
        // A call that breaks says no more than one that ends.
        let requests = request.into_inner().filter_map(|request| std::future::ready(request.ok()));
        let events = self.host.move_prefix(requests);
        Ok(Response::new(events.map(Ok).boxed()))
    }

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        self.admit()?;
        let events = self.host.generate(self.id, request.into_inner());
        Ok(Response::new(events.map(Ok).boxed()))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelReply>, Status> {
        self.admit()?;
        let was_running = self.host.cancel(self.id, &request.into_inner().request_id);
        Ok(Response::new(CancelReply { was_running }))
    }
}

impl Session {
    fn introduce(&self, request: &HelloRequest) -> Result<bool, LinkCause> {
        LinkCause::check_versions(PROTOCOL_VERSION, request.protocol_version)?;
        self.trust.introduce(&Hello {
            caller: self.caller,
            cluster: &request.cluster,
            cluster_name: &printable(&request.cluster_name),
            token_proof: &request.token_proof,
        })
    }

    fn admit(&self) -> Result<(), Status> {
        if self.trust.admits(self.caller, self.introduced.load(Ordering::SeqCst)) {
            return Ok(());
        }
        let (own, caller) = (self.trust.own().short(), self.caller.short());
        let message = match self.trust.cluster() {
            Some(owner) if owner == self.caller => {
                format!("node {own} requires a token: introduce with Hello and its proof first")
            }
            Some(owner) => {
                let owner = owner.short();
                format!("node {own} belongs to cluster {owner}, the caller holds key {caller}")
            }
            None => format!("node {own} is unclaimed: introduce with Hello first"),
        };
        Err(Status::unauthenticated(message))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.introduced.load(Ordering::SeqCst) {
            self.trust.tell(WatchEvent::RouterDisconnected(self.caller));
        }
    }
}

/// The status that carries a cause to the other side, in words and in a form it can read.
fn refusal(cause: &LinkCause) -> Status {
    let code = match cause {
        LinkCause::VersionMismatch { .. } => Code::FailedPrecondition,
        LinkCause::CallFailed { .. } => Code::Internal,
        _ => Code::Unauthenticated,
    };
    Status::with_details(code, cause.to_string(), cause.to_wire().into())
}

/// A caller's text goes to the log and the claim file.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}
