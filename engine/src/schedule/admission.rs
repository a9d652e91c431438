//! A sequence as it is handed to the scheduler, and why it may be refused.
//!
//! Plain data. Times are spans since a moment of the caller's choice, the same one for all.

use std::sync::Arc;
use std::time::Duration;

use super::plan::SequenceId;

/// Whom a request's cost is charged to; all requests without a client share one account.
pub type Client = Option<Arc<str>>;

/// A sequence to be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Its name.
    pub sequence: SequenceId,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// How many of the last of these are output of an earlier run, behind which it goes on.
    pub resumed: usize,
    /// Most tokens it will generate.
    pub max_new_tokens: usize,
    /// Higher goes first.
    pub priority: i32,
    /// Who asks.
    pub client: Client,
    /// When it came.
    pub arrival: Duration,
    /// When its output is of no more use.
    pub deadline: Option<Duration>,
}

/// Why a sequence can never be admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// There is nothing to continue.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// The sequence alone is larger than the cache.
    #[error(
        "prompt and output need {needed} tokens of KV cache, of which there are {available}; \
         shorten the prompt, lower max_tokens or give the engine more memory"
    )]
    LargerThanCache {
        /// Tokens of prompt and output together.
        needed: usize,
        /// Tokens the cache holds.
        available: usize,
    },
}

impl Admission {
    /// Tokens of prompt and output together.
    pub(super) fn most_tokens(&self) -> usize {
        self.prompt.len().saturating_add(self.max_new_tokens)
    }
}
