//! Why a token cannot be chosen.
//!
//! Tells a wrong request from an engine's failure, since the first would be wrong anywhere and
//! the second may pass elsewhere.

use crate::GenerateError;

/// Making a sampler or choosing a token failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A parameter breaks its rule.
    #[error("{field} must be {rule}, got {value}")]
    Parameter {
        /// Name of the field in `SamplingParams`.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
        /// What it is.
        value: f32,
    },
    /// A bias for a token that does not exist.
    #[error("logit_bias token ids must be below {vocab_size}, got {id}")]
    BiasToken {
        /// The id.
        id: u32,
        /// Tokens in the vocabulary.
        vocab_size: usize,
    },
    /// A bias that is not a number.
    #[error("logit_bias of token {id} must be finite, got {value}")]
    BiasValue {
        /// The token.
        id: u32,
        /// Its bias.
        value: f32,
    },
    /// Not one logit a token.
    #[error("logits must be one per token ({wanted}), got {got}")]
    LogitsLength {
        /// Length of the logits.
        got: usize,
        /// Tokens in the vocabulary.
        wanted: usize,
    },
    /// A logit is NaN or positive infinity: the model's arithmetic went wrong.
    #[error("logits must be numbers below infinity, got {value} for token {id}")]
    NotANumber {
        /// The first such token.
        id: usize,
        /// Its logit.
        value: f32,
    },
    /// The grammar's machinery gave up.
    #[error("the grammar cannot be followed any further: {0}")]
    Grammar(String),
    /// Every logit is negative infinity.
    #[error("at least one token must be possible, got none: every logit is -inf")]
    NoToken,
}

impl From<SamplingError> for GenerateError {
    fn from(error: SamplingError) -> Self {
        use SamplingError::{BiasToken, BiasValue, Grammar, LogitsLength, NoToken, NotANumber, Parameter};
        match error {
            Parameter { .. } | BiasToken { .. } | BiasValue { .. } => Self::Invalid(error.to_string()),
            LogitsLength { .. } | NotANumber { .. } | NoToken | Grammar(_) => {
                Self::Internal(error.to_string())
            }
        }
    }
}
