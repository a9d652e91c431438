//! Which cluster a node belongs to: trust on first use.
//!
//! The first router to introduce itself claims an unclaimed node; from then on only that
//! cluster's key is accepted. Knows nothing of connections: the node's gRPC service asks
//! [`decide`], acts on the answer and logs it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::storage::{Existing, write_private};
use crate::token::verify_token_proof;
use crate::{Fingerprint, LinkCause};

/// Name of the claim file inside its directory.
pub const CLAIM_FILE: &str = "claim.json";

/// Who owns this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Claim {
    /// Nobody yet: the first router with the right token, if one is set, claims it.
    #[default]
    Unclaimed,
    /// One cluster, until it is forgotten.
    Claimed {
        /// Fingerprint of the cluster's key.
        cluster: Fingerprint,
        /// The cluster's name for people.
        name: String,
    },
}

/// What a router says when it introduces itself, and what TLS proves about it.
#[derive(Debug, Clone, Copy)]
pub struct Hello<'a> {
    /// The key the caller proved to hold in the TLS handshake.
    pub caller: Fingerprint,
    /// The cluster it says it speaks for (`HelloRequest.cluster`).
    pub cluster: &'a str,
    /// That cluster's name for people (`HelloRequest.cluster_name`).
    pub cluster_name: &'a str,
    /// Its proof of the shared token (`HelloRequest.token_proof`), empty without.
    pub token_proof: &'a [u8],
}

/// What to do about a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is the owner.
    Accept,
    /// It becomes the owner: save this claim before answering.
    ClaimAndAccept(Claim),
    /// Turn it away.
    Refuse(RefuseReason),
}

/// Why a caller is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefuseReason {
    /// It speaks for a cluster whose key it does not hold.
    NotTheClusterKey {
        /// The cluster it named.
        claimed: String,
        /// The key it holds.
        seen: Fingerprint,
    },
    /// The node has another owner.
    ClaimedByOther {
        /// The owner.
        owner: Fingerprint,
        /// The caller.
        caller: Fingerprint,
    },
    /// A token is set and the caller brought no proof of it.
    TokenRequired,
    /// A token is set and the proof is of another one.
    TokenWrong,
}

/// Why the claim could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The file exists and cannot be read.
    #[error("cannot read claim {path}: {cause}; give the user running mlxcel access to it", path = path.display())]
    Read {
        /// The claim file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file is not a claim.
    #[error("claim {path} is damaged ({detail}); run `mlxcel node --forget-cluster` to start unclaimed", path = path.display())]
    Corrupt {
        /// The claim file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file could not be written.
    #[error("cannot write claim {path}: {cause}; make the directory writable, or set MLXCEL_STATE_DIR to one that is", path = path.display())]
    Write {
        /// The claim file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

impl Claim {
    /// The owner's key, if there is an owner.
    #[must_use]
    pub const fn cluster(&self) -> Option<Fingerprint> {
        match self {
            Self::Unclaimed => None,
            Self::Claimed { cluster, .. } => Some(*cluster),
        }
    }

    /// Reads the claim kept in `dir`; unclaimed where there is none.
    ///
    /// # Errors
    /// The file cannot be read or is damaged. A damaged claim never counts as unclaimed.
    pub fn load(dir: &Path) -> Result<Self, ClaimError> {
        let path = dir.join(CLAIM_FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| ClaimError::Corrupt { path, detail: e.to_string() }),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(Self::Unclaimed),
            Err(cause) => Err(ClaimError::Read { path, cause }),
        }
    }

    /// Keeps the claim in `dir`, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written; the old claim stands.
    pub fn save(&self, dir: &Path) -> Result<(), ClaimError> {
        let json = serde_json::to_vec_pretty(self).expect("strings are always valid JSON");
        write_private(dir, CLAIM_FILE, &json, Existing::Replace)
            .map_err(|cause| ClaimError::Write { path: dir.join(CLAIM_FILE), cause })
    }

    /// Removes the claim kept in `dir`, damaged or not: the node is unclaimed from then on.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget(dir: &Path) -> Result<(), ClaimError> {
        let path = dir.join(CLAIM_FILE);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(ClaimError::Write { path, cause }),
        }
    }
}

/// Decides about a caller. `token` is the node's own shared token, `own` the node's key.
///
/// With a token set, every caller must prove it, the owner included; without one, the first
/// caller claims the node.
#[must_use]
pub fn decide(claim: &Claim, token: Option<&str>, hello: &Hello<'_>, own: Fingerprint) -> Decision {
    if hello.cluster.parse() != Ok(hello.caller) {
        return Decision::Refuse(RefuseReason::NotTheClusterKey {
            claimed: hello.cluster.chars().take(64).collect(),
            seen: hello.caller,
        });
    }
    if let Some(owner) = claim.cluster().filter(|owner| *owner != hello.caller) {
        return Decision::Refuse(RefuseReason::ClaimedByOther { owner, caller: hello.caller });
    }
    if let Some(token) = token {
        if hello.token_proof.is_empty() {
            return Decision::Refuse(RefuseReason::TokenRequired);
        }
        if !verify_token_proof(token, hello.caller, own, hello.token_proof) {
            return Decision::Refuse(RefuseReason::TokenWrong);
        }
    }
    match claim {
        Claim::Claimed { .. } => Decision::Accept,
        Claim::Unclaimed => Decision::ClaimAndAccept(Claim::Claimed {
            cluster: hello.caller,
            name: hello.cluster_name.to_owned(),
        }),
    }
}

impl From<RefuseReason> for LinkCause {
    fn from(reason: RefuseReason) -> Self {
        match reason {
            RefuseReason::NotTheClusterKey { claimed, seen } => Self::NotTheClusterKey { claimed, seen },
            RefuseReason::ClaimedByOther { owner, caller } => Self::ClaimedByOther { owner, caller },
            RefuseReason::TokenRequired => Self::TokenRequired,
            RefuseReason::TokenWrong => Self::TokenWrong,
        }
    }
}

#[cfg(test)]
mod tests;
