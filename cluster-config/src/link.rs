//! Why two hosts that see each other do not work together, in words both sides share.
//!
//! Knows nothing of how a link is tried; `tls` tries, `membership` and `watch` decide when to
//! report.

use std::fmt;
use std::mem::{Discriminant, discriminant};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Fingerprint;
use crate::discovery::Role;

/// Why a link does not work. Its text is one line for people, with the mend where one is known.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum LinkCause {
    /// Something answered that nobody listens.
    #[error(
        "connection refused: nothing listens on that port, or a firewall rejects it; check that \
         mlxcel runs there"
    )]
    Refused,
    /// Nothing answered, though this host has an interface on the peer's network.
    #[error(
        "no answer: a firewall on one of the hosts drops TCP to that port; allow mlxcel's ports \
         on both"
    )]
    TimedOut,
    /// Nothing answered, and this host has no interface on the network of the peer's address.
    #[error(
        "no answer, and this host has no interface on the network of that address (wrong \
         interface), or a firewall drops TCP; announce an address on a shared network"
    )]
    WrongInterface,
    /// The operating system knows no way to the address.
    #[error("no route: that host is off or cut off, or on a network this host has no way to")]
    NoRoute,
    /// The peer announced nothing that could be dialled.
    #[error("the peer announced no address that can be dialled from here")]
    NoAddress,
    /// The peer speaks another version of the protocol.
    #[error(
        "protocol version {theirs} there, {ours} here: install the same mlxcel release on both \
         hosts"
    )]
    VersionMismatch {
        /// The version this side speaks.
        ours: u32,
        /// The version the peer speaks.
        theirs: u32,
    },
    /// Another key than the expected one answered.
    #[error(
        "key mismatch: expected {expected}, saw {seen}; another host answers at that address, or \
         its identity was replaced"
    )]
    KeyMismatch {
        /// The key the peer announced.
        expected: Fingerprint,
        /// The key that answered.
        seen: Fingerprint,
    },
    /// Something that is not mlxcel answered.
    #[error("not an mlxcel port: {detail}")]
    NotMlxcel {
        /// What it did instead.
        detail: String,
    },
    /// The node belongs to another cluster.
    #[error(
        "the node belongs to cluster {owner}, the router to {caller}; stop the node and start it \
         with `mlxcel node --forget-cluster` to move it"
    )]
    ClaimedByOther {
        /// The cluster that claimed the node.
        owner: Fingerprint,
        /// The cluster that asked.
        caller: Fingerprint,
    },
    /// The caller names a cluster whose key it does not hold.
    #[error("the caller holds key {seen} but speaks for cluster {claimed}; it must use the cluster's key")]
    NotTheClusterKey {
        /// The cluster it named.
        claimed: String,
        /// The key it holds.
        seen: Fingerprint,
    },
    /// The node was started with a token, the router without.
    #[error("the node requires a token: start the router with the same --token as the node")]
    TokenRequired,
    /// Both have a token; they differ.
    #[error("the tokens differ: start node and router with the same --token")]
    TokenWrong,
    /// The peer said why it does not connect.
    #[error("the other side says: {reason}")]
    ReportedByPeer {
        /// Its words.
        reason: String,
    },
    /// The connection worked, a call over it did not.
    #[error("connected, but {detail}")]
    CallFailed {
        /// What went wrong.
        detail: String,
    },
    /// An error of the operating system that has no name here.
    #[error("{detail}")]
    Other {
        /// What the system said.
        detail: String,
    },
}

impl LinkCause {
    /// Compares protocol versions.
    ///
    /// # Errors
    /// [`LinkCause::VersionMismatch`] when they differ.
    pub const fn check_versions(ours: u32, theirs: u32) -> Result<(), Self> {
        if ours == theirs { Ok(()) } else { Err(Self::VersionMismatch { ours, theirs }) }
    }

    /// The cause as bytes for the other side, such as a gRPC status' details.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a tree of strings and numbers is always valid JSON")
    }

    /// Reads what the other side wrote with [`Self::to_wire`], turned to this side's view.
    /// `None` when it is something else, as from a newer release.
    #[must_use]
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        Some(match serde_json::from_slice(bytes).ok()? {
            Self::VersionMismatch { ours, theirs } => Self::VersionMismatch { ours: theirs, theirs: ours },
            cause => cause,
        })
    }

    /// Whether trying again soon could help without anyone doing something first.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::TimedOut
                | Self::WrongInterface
                | Self::NoRoute
                | Self::NoAddress
                | Self::NotMlxcel { .. }
                | Self::KeyMismatch { .. }
                | Self::CallFailed { .. }
                | Self::Other { .. }
        )
    }
}

/// A failed attempt to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectError {
    /// The address the cause is about; `None` when there was none to try.
    pub address: Option<SocketAddr>,
    /// Why it failed.
    pub cause: LinkCause,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "cannot connect to {address}: {}", self.cause),
            None => write!(f, "cannot connect: {}", self.cause),
        }
    }
}

impl std::error::Error for ConnectError {}

/// One line for the log and the terminal about the link to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The peer's key.
    pub id: Fingerprint,
    /// The peer's name for people.
    pub hostname: String,
    /// What the peer is.
    pub role: Role,
    /// What there is to say.
    pub kind: ReportKind,
}

/// What a [`Report`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportKind {
    /// The link does not work.
    Failed(ConnectError),
    /// The link works again after a reported failure.
    Recovered,
}

impl Report {
    /// The cause of the failure; `None` for a recovery.
    #[must_use]
    pub const fn cause(&self) -> Option<&LinkCause> {
        match &self.kind {
            ReportKind::Failed(error) => Some(&error.cause),
            ReportKind::Recovered => None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (role, host, id) = (self.role, &self.hostname, self.id.short());
        match &self.kind {
            ReportKind::Failed(ConnectError { address: Some(address), cause }) => {
                write!(f, "no link to {role} {host} ({id}) at {address}: {cause}")
            }
            ReportKind::Failed(ConnectError { address: None, cause }) => {
                write!(f, "no link to {role} {host} ({id}): {cause}")
            }
            ReportKind::Recovered => write!(f, "link to {role} {host} ({id}) works again"),
        }
    }
}

/// Which causes were reported since a link last worked: each is worth one line.
#[derive(Debug, Default)]
pub(crate) struct Reported(Vec<Discriminant<LinkCause>>);

impl Reported {
    /// Whether the cause was not reported yet; it counts as reported from now on.
    pub(crate) fn is_news(&mut self, cause: &LinkCause) -> bool {
        let kind = discriminant(cause);
        let news = !self.0.contains(&kind);
        if news {
            self.0.push(kind);
        }
        news
    }

    /// Forgets what was reported; whether anything was.
    pub(crate) fn recovered(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_crosses_the_wire_and_versions_change_sides() {
        let key = Fingerprint::of_public_key(b"key");
        let causes = [
            LinkCause::Refused,
            LinkCause::TokenRequired,
            LinkCause::ClaimedByOther { owner: key, caller: key },
            LinkCause::CallFailed { detail: "it \"hung\" – über".into() },
        ];
        for cause in causes {
            assert_eq!(LinkCause::from_wire(&cause.to_wire()), Some(cause));
        }
        let (ours, theirs) = (1, 2);
        assert_eq!(
            LinkCause::from_wire(&LinkCause::VersionMismatch { ours, theirs }.to_wire()),
            Some(LinkCause::VersionMismatch { ours: theirs, theirs: ours })
        );
    }

    #[test]
    fn unknown_cause_of_a_newer_release_is_none() {
        assert_eq!(LinkCause::from_wire(b"{\"cause\":\"solar_flare\"}"), None);
        assert_eq!(LinkCause::from_wire(b"\xff"), None);
    }

    #[test]
    fn every_report_is_one_line_naming_role_host_and_address() {
        let report = Report {
            id: Fingerprint::of_public_key(b"key"),
            hostname: "alpha".into(),
            role: Role::Node,
            kind: ReportKind::Failed(ConnectError {
                address: Some("10.0.0.2:7411".parse().expect("address")),
                cause: LinkCause::Refused,
            }),
        };
        let line = report.to_string();
        let start = format!("no link to node alpha ({}) at 10.0.0.2:7411: ", report.id.short());
        assert!(line.starts_with(&start), "{line}");
        assert!(!line.contains('\n') && !line.contains("  "), "{line}");
    }
}
