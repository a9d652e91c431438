//! The `Engine` trait: what everything above an engine may rely on.
//!
//! Promises only. `model::MlxEngine` keeps them with real weights, `toy::ToyEngine` with a
//! deterministic toy for tests of nodes and routers. Threads and scheduling are the engine's own.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use mlxcel_kernels::KvDtype;

use crate::event::Event;
use crate::request::Request;
use crate::trace::Trace;
use crate::transfer::PrefixDoor;

/// Receives the events of one request, in order, on a thread of the engine's; must not block.
pub type EventSink = Box<dyn FnMut(Event) + Send>;

/// One loaded model that turns requests into tokens.
pub trait Engine: Send + Sync {
    /// Starts a request. Every request submitted ends with exactly one `Finished` or `Failed` event, at its
    /// deadline at the latest, give or take a step.
    fn submit(&self, request: Request, events: EventSink);

    /// Ends a request within one step with `FinishReason::Cancelled`; unknown ids are ignored.
    fn cancel(&self, id: &str);

    /// What the engine holds and does now.
    fn state(&self) -> EngineState;

    /// Where computed prefixes go out and come in; none where the engine's cannot be moved.
    fn prefixes(&self) -> Option<&dyn PrefixDoor> {
        None
    }
}

/// What an engine holds and does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineState {
    /// Sequences being prefilled or decoded.
    pub running: u32,
    /// Sequences waiting for room.
    pub waiting: u32,
    /// Most sequences that run at once; 0 where that is not known.
    pub max_running: u32,
    /// Longest prompt plus output, in tokens.
    pub context_tokens: u32,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes of KV cache held by sequences now; prefixes kept for later requests do not count.
    pub kv_bytes: u64,
    /// Blocks of the KV pool; 0 for an engine without one.
    pub kv_blocks: u32,
    /// Those no sequence holds: free, or cached until they are needed.
    pub kv_blocks_available: u32,
    /// How often, so far, a sequence gave its blocks up to another and was computed again later.
    pub preemptions: u64,
    /// Steps done so far.
    pub steps: u64,
    /// Tokens computed in them, of prompts and of answers.
    pub tokens: u64,
    /// Tokens in the steps under way. While there are any, `steps` moves, or the engine hangs.
    pub step_tokens: u32,
}

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Where to run.
    pub device: DeviceChoice,
    /// Quantise float linear weights while loading.
    pub quantize: Option<Quantization>,
    /// Longest prompt plus output in tokens; the model's own limit when absent.
    pub context_tokens: Option<u32>,
    /// Most sequences in one step; a default fitting the device when absent.
    pub max_sequences: Option<u32>,
    /// Most tokens the KV cache holds over all sequences; what fits the device beside the weights when absent, or
    /// less. Rounded down to whole blocks.
    pub kv_tokens: Option<u32>,
    /// How keys and values are stored; as they are computed when absent: f32 on a CPU, the model's dtype on a GPU.
    pub kv_dtype: Option<KvDtype>,
    /// Most tokens to guess ahead from what a sequence's own text repeats, and check in one step; 0 for none.
    pub lookup_tokens: u32,
    /// A smaller model that guesses ahead where the text says nothing.
    pub draft: Option<DraftOptions>,
    /// Most bytes of the device's memory to use for weights and KV cache; all of it when absent.
    pub memory_bytes: Option<u64>,
    /// Where to note what each step does; several engines may share one.
    pub trace: Option<Arc<Trace>>,
}

/// A draft model: a smaller one with the tokens of the model it drafts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftOptions {
    /// Its files: a directory, or one GGUF file.
    pub path: PathBuf,
    /// Quantise its float linear weights while loading.
    pub quantize: Option<Quantization>,
    /// Least and most tokens that it guesses ahead; between them, as many as pay by how often they are right and what
    /// they cost.
    pub tokens: RangeInclusive<u32>,
}

/// Which device an engine runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The GPU in a GPU build (an error where it cannot be used), the CPU in a CPU build.
    #[default]
    Default,
    /// The CPU, in any build.
    Cpu,
    /// The GPU with this index.
    Gpu(u32),
}

/// How a matrix is quantised: in groups of consecutive weights along the input dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantization {
    /// Each weight of a group is `scale * q + bias`, with an integer q.
    Affine {
        /// Bits of q: 2, 3, 4, 5, 6 or 8.
        bits: u32,
        /// Weights of a group: 32, 64 or 128.
        group_size: u32,
    },
    /// 4-bit floats (E2M1) with a power of two (E8M0) for each 32: MXFP4 of the Open Compute Project's "Microscaling
    /// Formats (MX) Specification", version 1.0.
    Mxfp4,
}

impl Quantization {
    /// What MLX calls the layout's kind.
    pub fn mode(self) -> &'static str {
        match self {
            Self::Affine { .. } => "affine",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// Bits of a weight, without its part of scales and biases.
    pub fn bits(self) -> u32 {
        match self {
            Self::Affine { bits, .. } => bits,
            Self::Mxfp4 => 4,
        }
    }

    /// Weights that share a scale.
    pub fn group_size(self) -> u32 {
        match self {
            Self::Affine { group_size, .. } => group_size,
            Self::Mxfp4 => 32,
        }
    }

    /// Whether there is such a layout.
    pub fn exists(self) -> bool {
        matches!(self.bits(), 2..=6 | 8) && matches!(self.group_size(), 32 | 64 | 128)
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affine { bits, group_size } => write!(f, "affine {bits}-bit, groups of {group_size}"),
            Self::Mxfp4 => f.write_str(self.mode()),
        }
    }
}

/// Work done while loading, for a progress bar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadStep {
    /// What is being done.
    pub what: String,
    /// Bytes done so far.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}
