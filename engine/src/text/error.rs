//! Why a model's text files cannot be used.
//!
//! Each message is one line that names the file and what would mend it. Knows no requests:
//! a wrong request is a `PromptError`.

use std::path::PathBuf;

/// Loading a tokenizer, its settings or its chat template failed.
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
    #[error("{from}: not a usable tokenizer: {reason}; fetch the model's own tokenizer.json again")]
    Tokenizer {
        /// Where the tokenizer came from.
        from: String,
        /// What is wrong with it, in one line.
        reason: String,
    },
    /// The tokenizer belongs to another model.
    #[error(
        "{from}: token ids go up to {highest_id}, but the model has embeddings for {vocab_size} \
         tokens only; put the tokenizer.json of this very model beside its weights"
    )]
    Vocabulary {
        /// Where the tokenizer came from.
        from: String,
        /// The highest id the tokenizer can produce.
        highest_id: u32,
        /// Rows of the model's embedding.
        vocab_size: u32,
    },
    /// The chat template does not parse.
    #[error("{from}: the chat template does not parse: {reason}; correct it or remove it")]
    Template {
        /// Where the template came from.
        from: String,
        /// The parser's message, in one line.
        reason: String,
    },
}
