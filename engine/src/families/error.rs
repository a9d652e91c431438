//! Why a configuration cannot be turned into a decoder.
//!
//! Every text names the key of config.json and what it may be instead.

/// A `config.json` does not describe a decoder we can run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FamilyError {
    /// No family has this `model_type`.
    #[error("unknown architecture \"{model_type}\"; supported: {supported}")]
    Unknown {
        /// `model_type` of the configuration.
        model_type: String,
        /// Every supported `model_type`.
        supported: String,
    },
    /// A key that has no default is absent.
    #[error("config.json has no {key}; the file is incomplete, download the model again")]
    Missing {
        /// The key.
        key: String,
    },
    /// A key has a value of the wrong kind or out of range.
    #[error("config.json has {key} {found}, expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// A key asks for something no family here does.
    #[error("config.json asks for {key} \"{found}\", which is not supported; supported: {supported}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What is supported instead.
        supported: String,
    },
}
