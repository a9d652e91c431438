//! Models divided between ranks. Each rank is a process: threads would not do, for MLX bounds the operations in flight
//! of a process, and one rank's, which wait for another, would keep the other's from being begun.

#![allow(clippy::expect_used, reason = "tests")]

mod logits;
mod member;

use super::Execution;
use logits::logits;

/// How the model is divided, and how it is computed.
#[derive(Clone, Copy, Debug)]
struct Division {
    stages: usize,
    ranks: usize,
    execution: Execution,
}
