//! Moves of prefixes into and out of this node: each is a conversation of a router with one of the workers.
//!
//! Passes on what either says until the worker has said its last word. A caller that goes away gives the move up.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use mlxcel_protocol::v1::move_prefix_event::Kind as Said;
use mlxcel_protocol::v1::move_prefix_request::Kind as Told;
use mlxcel_protocol::v1::{FailureKind, MovePrefixEvent, MovePrefixRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::supervisor::Slot;
use crate::wire;

/// Which model a conversation that begins so is about.
///
/// # Errors
/// The rule it breaks.
pub(crate) fn model(first: &MovePrefixRequest) -> Result<String, String> {
    let model = match &first.kind {
        Some(Told::Send(send)) => Some(&send.model),
        Some(Told::Receive(receive)) => receive.request.as_ref().map(|request| &request.model),
        _ => None,
    };
    model.cloned().ok_or_else(|| "a move of a prefix begins with `send` or `receive` of a model".to_owned())
}

/// Holds a conversation, of which `place` says with which worker, with what number, or why not.
pub(crate) fn converse<P>(
    mut requests: impl Stream<Item = MovePrefixRequest> + Send + Unpin + 'static,
    place: P,
) -> BoxStream<'static, MovePrefixEvent>
where
    P: FnOnce(&str) -> Result<(Arc<[Slot]>, usize, u64), (FailureKind, String)> + Send + 'static,
{
    let (replies, stream) = mpsc::channel(REPLIES_AHEAD);
    tokio::spawn(async move {
        let Some(first) = requests.next().await else { return };
        let placed =
            model(&first).map_err(|rule| (FailureKind::InvalidRequest, rule)).and_then(|model| place(&model));
        match placed {
            Ok((slots, slot, id)) => follow(&slots[slot], id, (first, requests), &replies).await,
            Err((kind, message)) => {
                // Whoever asked may have gone.
                let _ = replies.send(failed(kind, message)).await;
            }
        }
    });
    ReceiverStream::new(stream).boxed()
}

async fn follow(
    slot: &Slot,
    id: u64,
    (first, mut requests): (MovePrefixRequest, impl Stream<Item = MovePrefixRequest> + Unpin),
    replies: &mpsc::Sender<MovePrefixEvent>,
) {
    let mut said = slot.begin_move(id, first);
    loop {
        tokio::select! {
            event = said.recv() => {
                let lost = || failed(FailureKind::WorkerLost, "the worker's supervisor has ended");
                let event = event.unwrap_or_else(lost);
                let last = matches!(event.kind, Some(Said::Written(_) | Said::Taken(_) | Said::Failed(_)) | None);
                let _ = replies.send(event).await;
                if last {
                    return slot.tell_move(id, None);
                }
            }
            request = requests.next() => match request {
                Some(request) => slot.tell_move(id, Some(request)),
                None => return slot.tell_move(id, None),
            },
            () = replies.closed() => return slot.tell_move(id, None),
        }
    }
}

/// The event that ends a move with an error.
pub(crate) fn failed(kind: FailureKind, message: impl Into<String>) -> MovePrefixEvent {
    MovePrefixEvent { kind: Some(Said::Failed(wire::failure(kind, message))) }
}

const REPLIES_AHEAD: usize = 4;
