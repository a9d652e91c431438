//! Who is in the cluster: identity, trust, discovery, and why a link does not work.
//!
//! Owns a host's key, the TLS built on it, the claim of a node by a cluster, mDNS, and the
//! state machines that decide whom to connect to and what to report.
//! Knows nothing of gRPC, HTTP or models: `node` and `router` own the calls made over a link.

pub mod address;
pub mod claim;
pub mod discovery;
mod fingerprint;
pub mod identity;
pub mod link;
pub mod membership;
pub mod paths;
pub mod placement;
mod storage;
mod sys;
pub mod tls;
pub mod token;
pub mod watch;

pub use fingerprint::{Fingerprint, ParseFingerprintError};
pub use identity::{Identity, IdentityError};
pub use link::{ConnectError, LinkCause, Report};
pub use paths::{StateDirError, state_dir};

/// Longest time one attempt to connect to a peer takes, all its addresses and the TLS handshake
/// included.
pub const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);
