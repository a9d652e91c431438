//! What runs on one host: a worker process a device, supervised, behind one gRPC service.
//!
//! Owns the workers, what they hold, whom the node obeys and how it is found. Knows nothing of
//! HTTP, policies or other nodes: routers decide what is loaded and which request goes where.

mod coalesce;
pub mod data_plane;
mod events;
pub mod frames;
mod host;
mod loadable;
mod models;
mod moves;
mod registration;
mod replicas;
mod service;
mod start;
mod supervisor;
mod sys;
mod trust;
mod wire;
pub mod worker;

pub use registration::JoinAddressError;
pub use start::{LoadProgressStream, Node, NodeOptions, RunningNode, StartError};
pub use supervisor::WorkerProgram;

/// Whether this build can take part in replicas that span hosts. Without, a node is given whole
/// requests only, as with [`NodeOptions::standalone`].
pub const DISTRIBUTED: bool = cfg!(feature = "distributed");
