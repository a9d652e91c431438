//! The front door of a cluster: an OpenAI-compatible HTTP API over whatever nodes there are.
//!
//! Finds nodes, chooses one for each request and retries on another when one dies; `core` holds the
//! rules, the rest is I/O around it. Knows nothing of MLX or tensors; where models are placed beyond
//! loading one on demand is left to whoever runs the nodes.

mod api;
mod core;
mod metrics;
mod nodes;
mod options;
mod relay;
mod running;
mod start;

pub use options::{RouterOptions, StartError};
pub use running::RunningRouter;
pub use start::Router;
