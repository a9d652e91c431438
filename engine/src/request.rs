//! A request to an engine and the events that answer it.
//!
//! Plain data, the same for every engine. Knows nothing of sockets or tensors;
//! `node` translates between these types and the wire.

use std::collections::BTreeMap;
use std::time::Duration;

/// One generation request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Unique among the engine's requests in flight.
    pub id: String,
    /// What to continue.
    pub prompt: Prompt,
    /// How to choose each token.
    pub sampling: SamplingParams,
    /// When to stop.
    pub limits: Limits,
    /// When to start, beside others.
    pub turn: Turn,
}

/// Whose turn it is where there is more to do than can be done at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Turn {
    /// One of `PRIORITIES`. Higher goes first; what is passed over rises with time.
    pub priority: i32,
    /// Who asks. Clients of a priority get equal shares; requests without a client share one.
    pub client: Option<String>,
    /// Time from submission after which the output is of no more use: the request then ends with
    /// [`GenerateError::DeadlineExceeded`], and is not computed if it has not begun.
    pub deadline: Option<Duration>,
}

/// The priorities there are. Bounded, since a request rises by one level at a time.
pub const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;

/// What a request continues.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A conversation, rendered by the model's chat template.
    Chat(ChatPrompt),
    /// Plain text, tokenised as it is (special tokens of the tokenizer's own template are added).
    Text(String),
    /// Token ids, used as they are.
    Tokens(Vec<u32>),
}

/// A conversation in OpenAI's terms.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChatPrompt {
    /// The `messages` array.
    pub messages: serde_json::Value,
    /// The `tools` array; null for none.
    pub tools: serde_json::Value,
    /// Extra variables for the template; an object or null.
    pub variables: serde_json::Value,
}

/// How to choose each token. The default is greedy decoding without penalties.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 chooses the most likely token.
    pub temperature: f32,
    /// Keep only the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches p; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than p times the most likely one; 0 drops none.
    pub min_p: f32,
    /// Makes sampling repeatable; random when absent.
    pub seed: Option<u64>,
    /// Divides (positive) or multiplies (negative) the logits of tokens seen; 1 does nothing.
    pub repetition_penalty: f32,
    /// How many of the latest tokens (prompt included) the repetition penalty looks at.
    pub repetition_window: u32,
    /// Subtracted from a logit once per earlier generated occurrence.
    pub frequency_penalty: f32,
    /// Subtracted from the logit of every token already generated.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: BTreeMap<u32, f32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: None,
            repetition_penalty: 1.0,
            repetition_window: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: BTreeMap::new(),
        }
    }
}

/// When generation ends.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits {
    /// Most tokens to generate; as many as the context holds when absent.
    pub max_tokens: Option<u32>,
    /// Generation ends before the first of these strings; none of it is returned.
    pub stop: Vec<String>,
    /// Go on past end-of-sequence tokens.
    pub ignore_eos: bool,
}

/// What an engine says about a request. After `Finished` or `Failed` nothing follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt is tokenised and the request admitted.
    Started {
        /// Length of the prompt in tokens.
        prompt_tokens: u32,
    },
    /// More output.
    Delta {
        /// Whole characters only; may be empty while a character is incomplete.
        text: String,
        /// The tokens chosen since the last delta.
        token_ids: Vec<u32>,
    },
    /// The request has ended well.
    Finished(Finish),
    /// The request has ended with an error.
    Failed(GenerateError),
}

/// How a request ended, and what it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finish {
    /// Why generation stopped.
    pub reason: FinishReason,
    /// Length of the prompt in tokens.
    pub prompt_tokens: u32,
    /// Tokens generated, the end-of-sequence token included.
    pub completion_tokens: u32,
    /// From admission to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token or a stop string.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// The request was cancelled.
    Cancelled,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// The request is wrong, and would be on any engine.
    #[error("{0}")]
    Invalid(String),
    /// No room now.
    #[error("{0}")]
    Overloaded(String),
    /// The request's deadline has passed.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The engine itself failed.
    #[error("{0}")]
    Internal(String),
}
