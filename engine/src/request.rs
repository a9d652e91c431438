//! A request to an engine.
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
    /// What the answer consists of.
    pub answer: AnswerOptions,
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
    /// Generation ends when the output goes round in circles; never for that reason when absent.
    pub repetition: Option<RepetitionLimit>,
}

/// When output counts as going round in circles: it ends with the same run of tokens, of a length between
/// `min_pattern` and `max_pattern`, `min_count` times over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepetitionLimit {
    /// Longest run looked for, in tokens; at most [`RepetitionLimit::MOST_PATTERN`].
    pub max_pattern: u32,
    /// Shortest run looked for, at least 1.
    pub min_pattern: u32,
    /// How often it must come, at least 2.
    pub min_count: u32,
}

impl RepetitionLimit {
    /// Longest pattern that may be looked for: the work a token takes grows with it.
    pub const MOST_PATTERN: u32 = 256;

    /// The first rule that the limit breaks, with the value that breaks it.
    pub fn broken_rule(&self) -> Option<String> {
        let Self { max_pattern, min_pattern, min_count } = *self;
        if !(1..=Self::MOST_PATTERN).contains(&max_pattern) {
            let most = Self::MOST_PATTERN;
            return Some(format!("repetition max_pattern must be between 1 and {most}, got {max_pattern}"));
        }
        if !(1..=max_pattern).contains(&min_pattern) {
            return Some(format!(
                "repetition min_pattern must be between 1 and max_pattern {max_pattern}, got {min_pattern}"
            ));
        }
        (min_count < 2).then(|| format!("repetition min_count must be at least 2, got {min_count}"))
    }
}

/// What an answer consists of. The default is one choice of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerOptions {
    /// How many answers to the one prompt are generated, each on its own: from 1 to
    /// [`AnswerOptions::MOST_CHOICES`]. Choice `i` is sampled with the seed plus `i`, so that choice 0 is
    /// what a request for one choice gets.
    pub choices: u32,
    /// Tell the log-probability of each token, and those of this many most likely ones: at most
    /// [`AnswerOptions::MOST_TOP_LOGPROBS`].
    pub logprobs: Option<u32>,
    /// The text obeys this grammar, unless it is cut short. Where the prompt opens reasoning, the grammar begins
    /// after it.
    pub grammar: Option<Grammar>,
    /// Which of the prompt's tools is called.
    pub tools: ToolChoice,
    /// Where a tool must be called: at most one call.
    pub single_call: bool,
    /// Tokens that each choice has already, as another engine chose and told them; choices without any come last or
    /// have an empty list. The answer goes on behind them as that engine would have gone on, and tells what follows.
    pub resumed: Vec<Vec<u32>>,
}

/// A language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that obeys a JSON schema, itself given as JSON text.
    JsonSchema(String),
    /// What a regular expression matches as a whole.
    Regex(String),
    /// A context-free grammar in Lark's syntax, in the dialect of `llguidance`.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
}

impl Grammar {
    /// What kind of grammar it is, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::JsonObject => "JSON object",
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "Lark grammar",
            Self::Choice(_) => "choice",
        }
    }
}

/// Which tool is called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// This one, once.
    Named(String),
}

impl AnswerOptions {
    /// Most choices of one request.
    pub const MOST_CHOICES: u32 = 128;
    /// Most likely tokens told beside each token.
    pub const MOST_TOP_LOGPROBS: u32 = 20;

    /// The first rule that the options break, with the value that breaks it.
    pub fn broken_rule(&self) -> Option<String> {
        let (choices, top) = (self.choices, self.logprobs.unwrap_or(0));
        if !(1..=Self::MOST_CHOICES).contains(&choices) {
            return Some(format!("choices must be between 1 and {}, got {choices}", Self::MOST_CHOICES));
        }
        let most = Self::MOST_TOP_LOGPROBS;
        if self.resumed.len() > choices as usize {
            return Some(format!("{} choices cannot go on, the request has {choices}", self.resumed.len()));
        }
        (top > most).then(|| format!("logprobs must be at most {most} tokens, got {top}"))
    }
}

impl Default for AnswerOptions {
    fn default() -> Self {
        let (tools, resumed) = (ToolChoice::Auto, Vec::new());
        Self { choices: 1, logprobs: None, grammar: None, tools, single_call: false, resumed }
    }
}
