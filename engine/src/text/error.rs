//! Why text cannot be read or written: a model's files, or a request's prompt.
//!
//! Each message is one line; about files, it names the file and what would mend it. Knows nothing
//! of transport: callers turn a `PromptError` into their own kind of invalid request.

use std::path::PathBuf;

use crate::GenerateError;

/// Loading a tokenizer or its settings failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A file that every model needs is not there.
    #[error("{}: no such file; {mend}", path.display())]
    Missing {
        /// The file looked for.
        path: PathBuf,
        /// What to do.
        mend: String,
    },
    /// A file is there but cannot be read.
    #[error("{}: cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        reason: String,
    },
    /// A settings file is not what it should be.
    #[error("{}: {reason}; fetch the model again or correct the file", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer itself is not usable.
    #[error("{from}: not a usable tokenizer: {reason}; fetch the model's own tokenizer again")]
    Tokenizer {
        /// Where the tokenizer came from.
        from: String,
        /// What is wrong with it, in one line.
        reason: String,
    },
    /// The tokenizer belongs to another model.
    #[error(
        "{from}: token ids go up to {highest_id}, but the model embeds {vocab_size} tokens only; \
         put the tokenizer of this very model beside its weights"
    )]
    Vocabulary {
        /// Where the tokenizer came from.
        from: String,
        /// The highest id the tokenizer can produce.
        highest_id: u32,
        /// Rows of the model's embedding.
        vocab_size: u32,
    },
}

/// A prompt cannot be turned into tokens. The request is wrong, and would be on any engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// A conversation was sent to a base model.
    #[error("the model has no chat template; send the prompt as plain text")]
    NoTemplate,
    /// The model's chat template does not parse.
    #[error("the model's chat template does not parse: {0}")]
    BrokenTemplate(String),
    /// The conversation is not what OpenAI's API describes.
    #[error("{0}")]
    Conversation(String),
    /// The chat template refused the conversation, in its own words.
    #[error("chat template: {0}")]
    Template(String),
    /// The tokenizer refused the text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A token id that the model does not know.
    #[error("token ids must be below {vocab_size}, got {id}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Rows of the model's embedding.
        vocab_size: u32,
    },
    /// Nothing to continue.
    #[error("the prompt must have at least one token, got none")]
    Empty,
}

impl From<PromptError> for GenerateError {
    fn from(error: PromptError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Folds a library's message into one line.
pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
