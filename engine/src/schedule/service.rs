//! How much each client has been served: the account that fair share is decided by.
//!
//! The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): a counter
//! a client, of weighted tokens; the client with the smallest is next. One that comes back after a pause is
//! lifted to the least of those waiting, so that nobody saves up service. Of two clients that both always have
//! requests waiting, neither gets more than a bounded amount ahead, however large the requests of either are.

use std::collections::BTreeMap;

use super::admission::Client;

/// What a computed prompt token costs.
pub(super) const PROMPT_COST: u64 = 1;

/// What a generated token costs; that of the paper, and of common price lists.
pub(super) const OUTPUT_COST: u64 = 2;

/// Accounts kept of clients that have nothing here; the rest are forgotten, and with them a lead.
const MOST_IDLE: usize = 4096;

/// Weighted tokens computed, by client.
#[derive(Debug, Default)]
pub(super) struct Service {
    counters: BTreeMap<Client, u64>,
    /// The counter of the client that was last to have nothing waiting any more.
    last_left: u64,
}

impl Service {
    /// What a client has been charged.
    pub(super) fn of(&self, client: &Client) -> u64 {
        self.counters.get(client).copied().unwrap_or(0)
    }

    /// Charges a client for tokens.
    pub(super) fn charge(&mut self, client: &Client, cost: u64) {
        match self.counters.get_mut(client) {
            Some(counter) => *counter += cost,
            None => drop(self.counters.insert(client.clone(), cost)),
        }
    }

    /// A client that had nothing waiting has something; `waiting` are the others that have.
    pub(super) fn joined<'a>(&mut self, client: &Client, waiting: impl Iterator<Item = &'a Client>) {
        let least = waiting.map(|other| self.of(other)).min().unwrap_or(self.last_left);
        let counter = self.of(client).max(least);
        self.counters.insert(client.clone(), counter);
    }

    /// A client has nothing waiting any more.
    pub(super) fn left(&mut self, client: &Client) {
        self.last_left = self.of(client);
    }

    /// Forgets clients that have nothing here, where they have become many.
    pub(super) fn forget_idle(&mut self, is_active: impl Fn(&Client) -> bool) {
        if self.counters.len() > MOST_IDLE {
            self.counters.retain(|client, _| is_active(client));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> Client {
        Some(name.into())
    }

    #[test]
    fn a_client_that_comes_back_has_saved_nothing_up() {
        let mut service = Service::default();
        let (old, new) = (client("old"), client("new"));
        service.joined(&old, std::iter::empty());
        service.charge(&old, 900);
        service.joined(&new, std::iter::once(&old));
        assert_eq!(service.of(&new), 900);
    }

    #[test]
    fn a_client_cannot_shed_its_debt_by_pausing() {
        let mut service = Service::default();
        let (greedy, modest) = (client("greedy"), client("modest"));
        service.charge(&greedy, 900);
        service.charge(&modest, 10);
        service.joined(&greedy, std::iter::once(&modest));
        assert_eq!(service.of(&greedy), 900);
    }

    #[test]
    fn an_empty_queue_is_joined_at_the_level_of_who_left_last() {
        let mut service = Service::default();
        service.charge(&client("a"), 70);
        service.left(&client("a"));
        service.joined(&client("b"), std::iter::empty());
        assert_eq!(service.of(&client("b")), 70);
    }

    #[test]
    fn idle_accounts_do_not_grow_without_bound() {
        let mut service = Service::default();
        for index in 0..=MOST_IDLE {
            service.charge(&client(&index.to_string()), 1);
        }
        service.forget_idle(|client| client.as_deref() == Some("7"));
        assert_eq!((service.counters.len(), service.of(&client("7"))), (1, 1));
    }
}
