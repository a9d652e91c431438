//! A request's place in the queue, from its first wait until it is on a node or has gone.
//!
//! Dropping it gives the place up. Whose turn it is, `core::queue` says.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::core::queue::{Claim, Ticket};
use crate::nodes::roster::Roster;

/// A request's turn to be sent to a node.
#[derive(Debug)]
pub(crate) struct Turn {
    roster: Roster,
    model: String,
    pub(crate) claim: Claim,
    pub(crate) ticket: Option<Ticket>,
    /// Marked when it may be this request's turn.
    pub(crate) called: Arc<Notify>,
}

impl Turn {
    pub(super) fn new(roster: Roster, model: &str, claim: Claim) -> Self {
        Self { roster, model: model.to_owned(), claim, ticket: None, called: Arc::default() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.roster.leaves_queue(&self.model, ticket);
        }
    }
}
