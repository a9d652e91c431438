//! Text to tokens and back: tokenizer files, chat templates, incremental detokenisation and stop
//! strings.
//!
//! Knows nothing of models or scheduling. The engine loop decides when to encode, push and stop.

mod assets;
mod error;

pub use assets::TextAssets;
pub use error::TextError;
