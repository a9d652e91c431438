//! Guessing tokens ahead, so that one step of the model checks several.
//!
//! Pure code: `lookup` guesses from the sequence's own text, `drafting` keeps the books of a draft model that guesses,
//! `length` decides how many guesses pay, `acceptance` keeps those the model would have chosen itself. Knows no tensors
//! and no clock; `serving` runs the steps.
//!
//! A guess is kept when the token chosen from the model's distribution at its place is the same token; the first
//! that differs is the model's own choice and replaces it. For a guess that does not depend on the choice's
//! randomness this is the acceptance rule of Leviathan et al. ("Fast Inference from Transformers via Speculative
//! Decoding", 2023) with all of the draft's probability on one token, so the distribution stays exactly the
//! model's. A draft model guesses greedily for that reason: sampling its guesses would keep a few more of them at high
//! temperatures, and give up what follows. It also draws exactly the random numbers that decoding without guesses draws: greedy and seeded
//! output are the same token for token.

mod acceptance;
mod drafting;
mod length;
mod lookup;

pub use acceptance::accepted;
pub use drafting::{CatchUp, DraftBooks};
pub use length::{AcceptanceRate, StepCost, best_drafted_length, best_length};
pub use lookup::NgramIndex;
