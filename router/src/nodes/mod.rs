//! The router's side of its nodes: finding them, connecting to them, knowing how they are.
//!
//! Whom to connect to and when is `cluster_config::membership`'s decision; which of them serves a
//! request is `core`'s. This module owns the sockets and tasks between the two.

pub(crate) mod control;
pub(crate) mod dial;
pub(crate) mod link;
pub(crate) mod members;
pub(crate) mod roster;
