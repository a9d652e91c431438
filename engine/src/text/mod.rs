//! Text to tokens and back: tokenizer files, chat templates, incremental detokenisation and stop
//! strings.
//!
//! Knows nothing of models or scheduling. The engine loop decides when to encode, push and stop.

mod assets;
mod codec;
mod detokenizer;
mod error;
pub(crate) mod markup;
mod pieces;
mod scores;
mod stop;
mod template;

pub use assets::TextAssets;
pub use codec::TextCodec;
pub use detokenizer::{DetokenizeOptions, Detokenizer};
pub use error::{PromptError, TextError};
pub(crate) use scores::PendingScores;
pub use stop::{StopMatcher, StopStep};
