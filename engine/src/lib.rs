//! How one rank turns tokens into tokens: checkpoints, decoder families, KV cache, batching,
//! sampling and text.
//!
//! Knows nothing of sockets or clusters. The `Engine` trait is what everything above relies on.

mod api;
pub mod checkpoint;
pub mod decoder;
pub mod families;
mod request;
pub mod text;

pub use api::{DeviceChoice, Engine, EngineState, EventSink, LoadOptions, LoadStep, Quantization};
pub use request::{
    ChatPrompt, Event, Finish, FinishReason, GenerateError, Limits, Prompt, Request, SamplingParams,
};
