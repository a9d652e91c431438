//! Has a node load a model, for whoever is waiting for it.
//!
//! Runs to its end even if no request waits any more: the next one will want the model too. The
//! fleet knows that it is under way and how it ended.

use mlxcel_protocol::v1::load_progress::Kind;
use mlxcel_protocol::v1::{LoadModelRequest, ModelState};

use crate::core::fleet::NodeId;
use crate::nodes::roster::{Link, Roster};

/// Loads `model` on `node` and tells the roster when that has ended.
pub(super) async fn load(roster: Roster, node: NodeId, link: Link, model: String) {
    tracing::info!(%node, %model, "loading");
    let loss = link.loss.clone();
    let outcome = tokio::select! {
        outcome = follow(link, &model) => outcome,
        cause = loss.wait() => Err(format!("node {node} was lost: {cause}")),
    };
    match &outcome {
        Ok(_) => tracing::info!(%node, %model, "loaded"),
        Err(message) => tracing::warn!(%node, %model, %message, "loading failed"),
    }
    roster.load_ended(&node, &model, outcome.err());
}

async fn follow(mut link: Link, model: &str) -> Result<ModelState, String> {
    let request = LoadModelRequest { model: model.to_owned(), ..LoadModelRequest::default() };
    let told = |status: tonic::Status| status.message().to_owned();
    let mut progress = link.client.load_model(request).await.map_err(told)?.into_inner();
    while let Some(step) = progress.message().await.map_err(told)? {
        match step.kind {
            Some(Kind::Ready(state)) => return Ok(state),
            Some(Kind::Failed(failure)) => return Err(failure.message),
            Some(Kind::Step(_) | Kind::Listening(_)) | None => {}
        }
    }
    Err("the node ended the load without a result".to_owned())
}
