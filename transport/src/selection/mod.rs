//! Which way two peers use: the best that both have, and the next when it fails.
//!
//! `offer` is what a peer says of itself over the control plane, `choice` decides, as pure code, and can say why;
//! `selected` is a transport that follows the choice for each of its peers. Nothing here moves bytes itself.

mod choice;
mod offer;
mod selected;

pub use choice::{Choice, Policy, Verdict, choose};
pub use offer::{Offer, Way};
pub use selected::Selected;

#[cfg(test)]
mod tests;
