//! The router's decisions: which node serves a request, and what follows when it cannot.
//!
//! State machines that take events and `now` and answer with what to do. They own no socket, task or
//! clock; `cluster` feeds them what nodes say, `relay` carries out what they decide.

pub(crate) mod assembly;
pub(crate) mod attempt;
pub(crate) mod cost;
pub(crate) mod dispatch;
pub(crate) mod fleet;
pub(crate) mod member;
pub(crate) mod prefill;
pub(crate) mod prefixes;
pub(crate) mod queue;
pub(crate) mod refusal;
pub(crate) mod report;
pub(crate) mod speed;
pub(crate) mod watchdog;

#[cfg(test)]
mod tests;
