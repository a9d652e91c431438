//! How one rank turns tokens into tokens: checkpoints, decoder families, KV cache, batching,
//! sampling and text.
//!
//! Knows nothing of sockets or clusters. The `Engine` trait is what everything above relies on.

mod api;
pub mod blocks;
pub mod checkpoint;
pub mod decoder;
mod described;
mod device;
mod event;
pub mod families;
mod grammar;
mod inspect;
mod kv;
mod rank;
pub mod ranks;
pub mod replica;
mod request;
pub mod sampling;
pub mod schedule;
mod score;
mod serving;
mod sizes;
pub mod speculation;
mod speed;
mod state;
pub mod text;
pub mod toy;
mod trace;
pub mod transfer;

pub use api::{
    DeviceChoice, DraftOptions, Engine, EngineState, EventSink, LoadOptions, LoadStep, Quantization,
};
pub use device::{Device, DeviceError, DeviceFamily, DeviceInfo, library_for_cpu};
pub use event::{
    Delta, Event, Finish, FinishReason, GenerateError, ScoredToken, TokenLogprobs, ToolCallDelta,
};
pub use inspect::{Inspection, inspect};
pub use mlxcel_kernels::{KvDtype, UnknownKvDtype};
pub use request::{
    AnswerOptions, ChatPrompt, Grammar, Limits, PRIORITIES, Prompt, RepetitionLimit, Request, SamplingParams,
    ToolChoice, Turn,
};
pub use score::{Scored, Scorer};
pub use serving::{LoadError, load, load_leader};
pub use sizes::{Sizes, sizes};
pub use speed::Speed;
pub use trace::Trace;
