//! One try of a request on one node.
//!
//! Counts towards the node's load while it lives; dropped before its end, it cancels the request
//! there. What a failure means is `core::attempt`'s to say.

use futures::FutureExt;
use futures::future::BoxFuture;
use mlxcel_protocol::v1::generate_event::Kind;
use mlxcel_protocol::v1::node_client::NodeClient;
use mlxcel_protocol::v1::{
    CancelRequest, FailureKind, FinishReason, GenerateEvent, GenerateRequest, Started,
};
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use super::Piece;
use crate::core::attempt::Happening;
use crate::core::fleet::{NodeId, Pick};
use crate::nodes::roster::{Link, Roster};

/// A request on a node.
#[derive(Debug)]
pub(super) struct Leg {
    roster: Roster,
    pick: Pick,
    link: Link,
    request_id: String,
    call: Call,
}

enum Call {
    Unsent(Box<GenerateRequest>),
    /// Sent; the node has not answered.
    Opening(BoxFuture<'static, Result<Response<Streaming<GenerateEvent>>, Status>>),
    Open(Box<Streaming<GenerateEvent>>),
    /// The node has said the last word, or cannot be told anything any more.
    Over,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unsent(_) => "Unsent",
            Self::Opening(_) => "Opening",
            Self::Open(_) => "Open",
            Self::Over => "Over",
        })
    }
}

impl Leg {
    pub(super) fn new(roster: Roster, pick: Pick, link: Link, request: GenerateRequest) -> Self {
        Self {
            roster,
            pick,
            link,
            request_id: request.request_id.clone(),
            call: Call::Unsent(Box::new(request)),
        }
    }

    pub(super) fn pick(&mut self) -> &mut Pick {
        &mut self.pick
    }

    /// Where it is.
    pub(super) const fn node(&self) -> &NodeId {
        &self.pick.node
    }

    /// What happens next on the node, with the answer's part it carries. Cancel safe.
    pub(super) async fn next(&mut self) -> (Happening, Option<Piece>) {
        let loss = self.link.loss.clone();
        tokio::select! {
            biased;
            happened = self.receive() => happened,
            cause = loss.wait() => {
                self.call = Call::Over;
                (Happening::Lost(cause), None)
            }
        }
    }

    async fn receive(&mut self) -> (Happening, Option<Piece>) {
        if let Call::Unsent(request) = &mut self.call {
            let (request, mut client) = (std::mem::take(&mut **request), self.link.client.clone());
            self.call = Call::Opening(async move { client.generate(request).await }.boxed());
        }
        if let Call::Opening(call) = &mut self.call {
            match call.await {
                Ok(response) => self.call = Call::Open(Box::new(response.into_inner())),
                Err(status) => return self.over(happening_of(&status)),
            }
        }
        let Call::Open(events) = &mut self.call else {
            return (Happening::Lost("the node has ended the stream".into()), None);
        };
        match events.message().await {
            Ok(Some(event)) => self.translate(event),
            Ok(None) => self.over(Happening::Lost("the stream ended early".into())),
            Err(status) => self.over(happening_of(&status)),
        }
    }

    fn translate(&mut self, event: GenerateEvent) -> (Happening, Option<Piece>) {
        match event.kind {
            Some(Kind::Started(Started { prompt_tokens, device_index: device })) => {
                (Happening::Started { prompt_tokens, device }, None)
            }
            Some(Kind::Delta(delta)) => (Happening::Delta, Some(Piece::Output(delta.choices))),
            Some(Kind::Finished(finished)) => match finished.reason() {
                FinishReason::Stop
                | FinishReason::Length
                | FinishReason::ToolCalls
                | FinishReason::Repetition => {
                    let (happening, _) = self.over(Happening::Finished);
                    (happening, Some(Piece::Finished(finished)))
                }
                FinishReason::Cancelled | FinishReason::Unspecified => {
                    let message = "the node cancelled the request".to_owned();
                    self.over(Happening::Failed(FailureKind::Internal, message))
                }
            },
            Some(Kind::Failed(failure)) => self.over(Happening::Failed(failure.kind(), failure.message)),
            None => {
                let message = "the node sent an event of an unknown kind".to_owned();
                (Happening::Failed(FailureKind::Internal, message), None)
            }
        }
    }

    fn over(&mut self, happening: Happening) -> (Happening, Option<Piece>) {
        self.call = Call::Over;
        (happening, None)
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        self.roster.release(&self.pick);
        if matches!(self.call, Call::Open(_) | Call::Opening(_) | Call::Unsent(_))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let id = std::mem::take(&mut self.request_id);
            runtime.spawn(cancel(self.link.client.clone(), id));
        }
    }
}

/// Says explicitly what dropping the stream implies: a proxy or a full window may hold that up.
async fn cancel(mut client: NodeClient<Channel>, request_id: String) {
    let cancel = client.cancel(CancelRequest { request_id });
    let _ = tokio::time::timeout(CANCEL_TIMEOUT, cancel).await;
}

/// A failed call in the wire's own terms: what the node means, or that it could not be reached.
fn happening_of(status: &Status) -> Happening {
    // Only what came over the wire is the node's word; the rest, whatever its code, is this side's library
    // telling of a broken connection in terms of frames.
    if std::error::Error::source(status).is_some() {
        tracing::debug!(%status, "call broke");
        return Happening::Lost("its connection broke".to_owned());
    }
    let kind = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => FailureKind::InvalidRequest,
        Code::NotFound => FailureKind::ModelNotFound,
        Code::ResourceExhausted => FailureKind::Overloaded,
        Code::Internal | Code::Unimplemented | Code::FailedPrecondition | Code::DataLoss => {
            FailureKind::Internal
        }
        _ => return Happening::Lost(status.message().to_owned()),
    };
    Happening::Failed(kind, status.message().to_owned())
}

const CANCEL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
