//! Why a request got no answer.
//!
//! Names causes, not status codes; `api::error` gives each its place in the OpenAI error scheme.

use std::time::Duration;

/// Why a request ended without its whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request is wrong; every node would say so.
    #[error("{0}")]
    Invalid(String),
    /// Nodes are connected and none knows the model.
    #[error("the model '{model}' does not exist; {}", served_list(.served))]
    UnknownModel {
        /// The name asked for.
        model: String,
        /// What could have been asked for.
        served: Vec<String>,
    },
    /// No node could serve the model for as long as the router waits.
    #[error("no node could serve '{model}' within {} s: {why}", .waited.as_secs())]
    NoNode {
        /// The name asked for.
        model: String,
        /// How long the router waited.
        waited: Duration,
        /// What stood in the way last.
        why: String,
    },
    /// The time the client gave has passed.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// As much waits for nodes as may.
    #[error("too much to do: {why}; try again in {retry_after} s")]
    Full {
        /// What is full.
        why: String,
        /// Seconds.
        retry_after: u64,
    },
    /// Nodes have the model, and none had room.
    #[error("every node that has the model is busy: {0}")]
    Overloaded(String),
    /// Nodes tried to load the model and could not.
    #[error("the model '{model}' could not be loaded: {message}")]
    LoadFailed {
        /// The name asked for.
        model: String,
        /// The node's words.
        message: String,
    },
    /// Worker after worker crashed under this request.
    #[error("the request was given up after {times} workers crashed under it: {message}")]
    Crashes {
        /// How many.
        times: u32,
        /// The last node's words.
        message: String,
    },
    /// The node's engine failed.
    #[error("{0}")]
    Internal(String),
    /// The router is ending.
    #[error("the router is shutting down")]
    Stopping,
}

fn served_list(served: &[String]) -> String {
    if served.is_empty() { "no model is served".to_owned() } else { format!("served: {}", served.join(", ")) }
}
