//! What router, node and worker say to each other.
//!
//! Messages and gRPC services generated from `proto/mlxcel.proto`, which documents each of them.
//! Knows nothing of who acts on a message; `node` and `router` do.

/// Messages, clients and servers of package `mlxcel.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated code; the .proto holds its documentation"
)]
pub mod v1 {
    tonic::include_proto!("mlxcel.v1");
}

/// What every message is.
pub use prost::Message;

/// The version of the protocol this build speaks. Peers refuse each other when it differs.
pub const PROTOCOL_VERSION: u32 = 3;
