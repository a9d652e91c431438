//! Loading a model: from files to a running engine thread.
//!
//! Arrays never leave the thread that made them, so the thread itself loads and reports progress
//! through a channel to the caller.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::command::SharedState;
use super::delivery::TraceRows;
use super::draft;
use super::drafter::Drafter;
use super::executor::Local;
use super::thread::{EngineHandle, EngineThread};
use crate::api::{Engine, LoadOptions, LoadStep};
use crate::blocks::{BLOCK_TOKENS, blocks_for};
use crate::checkpoint::CheckpointError;
use crate::decoder::{Decoder, Execution, Model, WeightError, state_bytes};
use crate::described::described;
use crate::device::{Device, DeviceError};
use crate::families::FamilyError;
use crate::replica::JoinError;
use crate::schedule::{Scheduler, SchedulerLimits};
use crate::state::{block_store, snapshot_bytes_per_block};
use crate::text::{TextCodec, TextError};
use crate::trace::Trace;
use crate::transfer::{CacheDescription, ModelIdentity};

/// Most sequences in one step, unless the options say otherwise: on a CPU, and on a GPU, where they share the
/// reading of the weights.
pub(super) const DEFAULT_MAX_SEQUENCES: [u32; 2] = [16, 256];

/// Most tokens in one step, on a CPU and on a GPU: what keeps a decode token from waiting long for others' prompts,
/// and what a device needs to be busy.
const STEP_TOKENS: [usize; 2] = [512, 2048];

/// After how long requests that are passed over count as one priority higher: a distance of one costs the lower one
/// at most this time a turn.
pub(super) const AGEING: Duration = Duration::from_secs(5);

/// Share of the memory left after the weights that KV caches may take.
const KV_MEMORY_SHARE: f64 = 0.6;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The files are damaged, missing or of an unknown format.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The configuration describes nothing we can run.
    #[error("{path}: {reason}", path = path.display())]
    Family {
        /// The model's directory or file.
        path: PathBuf,
        /// What is wrong with its configuration.
        reason: FamilyError,
    },
    /// A weight has the wrong shape or dtype.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The tokenizer or chat template cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// More context was asked for than the model has.
    #[error(
        "a context of {asked} tokens was asked for, the model was trained for {limit}; ask for at most {limit}"
    )]
    Context {
        /// Tokens asked for.
        asked: u32,
        /// Tokens the model was trained for.
        limit: u32,
    },
    /// The weights do not fit.
    #[error(
        "the weights take {:.2} GB, the device has {:.2} GB to use; quantise them, or divide the model over several devices", *.needed as f64 / 1e9, *.memory as f64 / 1e9
    )]
    Memory {
        /// Bytes of the weights, as stored.
        needed: u64,
        /// Bytes that may be used.
        memory: u64,
    },
    /// The draft model's tokens are others than the model's.
    #[error("{path} cannot draft: {reason}; a draft model must have the tokenizer of the model it drafts for", path = path.display())]
    Draft {
        /// The draft model's directory or file.
        path: PathBuf,
        /// Where they differ.
        reason: String,
    },
    /// What cannot be had of a model whose layers keep states.
    #[error(
        "{path}: {option} cannot be had, for layers that keep states of sequences cannot take them back where a guess is \
         wrong; leave it out", path = path.display()
    )]
    Stateful {
        /// The directory or file of the model with states.
        path: PathBuf,
        /// What was asked for.
        option: &'static str,
    },
    /// The ranks of a replica do not find together.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// MLX refused.
    #[error(transparent)]
    Mlx(#[from] mlxcel_mlx_bridge::Error),
    /// The engine's thread could not be started or died while loading.
    #[error("the engine's thread {0}")]
    Thread(String),
}

/// Loads the model in `path`, a directory or one GGUF file, and starts its engine.
///
/// # Errors
/// See [`LoadError`]; nothing is left running.
pub fn load(
    path: &Path,
    options: &LoadOptions,
    progress: &mut dyn FnMut(LoadStep),
) -> Result<Box<dyn Engine>, LoadError> {
    let (path, options) = (path.to_owned(), options.clone());
    let start = move |progress: &mut dyn FnMut(LoadStep)| Loaded::new(&path, &options, progress)?.start();
    Ok(Box::new(on_thread(start, progress)?))
}

/// Has `start` load a model on the thread that will run its engine.
pub(super) fn on_thread(
    start: impl FnOnce(&mut dyn FnMut(LoadStep)) -> Result<(EngineThread, EngineHandle), LoadError>
    + Send
    + 'static,
    progress: &mut dyn FnMut(LoadStep),
) -> Result<EngineHandle, LoadError> {
    let (step_sender, steps) = mpsc::channel();
    let (result_sender, results) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            // The caller waits for the result: a failed send means it has panicked.
            let started = start(&mut |step| drop(step_sender.send(step)));
            drop(step_sender);
            match started {
                Ok((thread, handle)) => {
                    if result_sender.send(Ok(handle)).is_ok() {
                        thread.run();
                    }
                }
                Err(error) => drop(result_sender.send(Err(error))),
            }
        })
        .map_err(|error| LoadError::Thread(format!("could not be started: {error}")))?;
    for step in steps {
        progress(step);
    }
    let handle = results.recv().map_err(|_| LoadError::Thread("died while loading".to_owned()))??;
    Ok(handle.joined(thread))
}

/// Everything a model needs to run.
struct Loaded {
    model: Model,
    codec: TextCodec,
    context_tokens: u32,
    limits: SchedulerLimits,
    blocks: usize,
    weight_bytes: u64,
    lookup_tokens: usize,
    drafter: Option<Drafter>,
    cache: Option<CacheDescription>,
    trace: Option<TraceRows>,
}

impl Loaded {
    fn new(
        path: &Path,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Self, LoadError> {
        let device = Device::choose(options.device)?;
        device.make_default()?;
        let (checkpoint, description) = described(path)?;
        let memory = options.memory_bytes.unwrap_or_else(|| device.info().memory_bytes);
        if options.quantize.is_none() && checkpoint.total_bytes() > memory {
            return Err(LoadError::Memory { needed: checkpoint.total_bytes(), memory });
        }
        let vocab_size = u32::try_from(description.vocab_size).unwrap_or(u32::MAX);
        let codec = TextCodec::new(&checkpoint.text_assets()?, vocab_size)?;
        let context_tokens = context(options, description.max_context)?;
        refuse_guesses(path, &description, options)?;
        let model = Model::load(description, &checkpoint, device.execution(), options.quantize, progress)?;
        let model = model.with_kv_dtype(options.kv_dtype);
        let identity = ModelIdentity::of(&model.description, &checkpoint, options.quantize);
        let cache = CacheDescription::of(&model, identity);
        let step_tokens = STEP_TOKENS[usize::from(device.has_wide_steps())];
        let draft = options.draft.as_ref();
        let draft = draft.map(|draft| draft::load(draft, &codec, &device, progress)).transpose()?;
        let mut weight_bytes = model.weights.bytes();
        let bytes = [model.state_bytes(), model.kv_block_bytes()];
        let mut block_bytes = bytes[1] + snapshot_bytes_per_block(bytes);
        if let Some((draft, _)) = &draft {
            weight_bytes += draft.weights.bytes();
            block_bytes += draft.kv_block_bytes();
        }
        let wide = usize::from(device.has_wide_steps());
        let max_sequences = options.max_sequences.unwrap_or(DEFAULT_MAX_SEQUENCES[wide]) as usize;
        let wanted = max_sequences * blocks_for(context_tokens as usize);
        let most = options.kv_tokens.map_or(wanted, |tokens| tokens as usize / BLOCK_TOKENS);
        let running = max_sequences as u64 * bytes[0];
        let blocks = kv_blocks(block_bytes, memory, weight_bytes + running, wanted.min(most));
        let drafter = draft.map(|(draft, limits)| Drafter::new(draft, blocks, limits(step_tokens)));
        // A request alone has to fit, whatever the model was trained for.
        let context_tokens = context_tokens.min(u32::try_from(blocks * BLOCK_TOKENS).unwrap_or(u32::MAX));
        let limits = SchedulerLimits {
            max_sequences,
            step_tokens,
            ageing: AGEING,
            stages: 1,
            exact_rows: exact_rows(&device),
        };
        let lookup_tokens = options.lookup_tokens as usize;
        let trace = options.trace.as_ref().map(|trace| trace_rows(trace, path));
        Ok(Self {
            model,
            codec,
            context_tokens,
            limits,
            blocks,
            weight_bytes,
            lookup_tokens,
            drafter,
            cache,
            trace,
        })
    }

    fn start(self) -> Result<(EngineThread, EngineHandle), LoadError> {
        let (commands, receiver) = mpsc::channel();
        let state = Arc::new(SharedState::new(self.context_tokens, self.weight_bytes, self.blocks));
        let bytes = [self.model.state_bytes(), self.model.kv_block_bytes()];
        let store = block_store(self.blocks, self.limits.max_sequences, bytes);
        let scheduler = Scheduler::new(self.limits, store);
        let codec = Arc::new(self.codec);
        let handle =
            EngineHandle::new(commands, Arc::clone(&codec), Arc::clone(&state)).with_cache(self.cache);
        let executor = Box::new(Local::new(self.model, self.blocks));
        let thread = EngineThread::new((executor, codec), scheduler, receiver, state, self.trace)
            .map_err(|error| LoadError::Thread(format!("could not start one for delivery: {error}")))?;
        Ok((thread.guessing(self.lookup_tokens, self.drafter), handle))
    }
}

/// Rows named after the model, for its two threads.
pub(super) fn trace_rows(trace: &Arc<Trace>, path: &Path) -> TraceRows {
    let model = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let row = |of: &str| trace.track(&format!("{model}: {of}"));
    TraceRows { trace: Arc::clone(trace), steps: row("steps"), delivery: row("delivery") }
}

/// Refuses what guesses ahead where the model in `path` could not take a wrong guess back.
pub(super) fn refuse_guesses(
    path: &Path,
    description: &Decoder,
    options: &LoadOptions,
) -> Result<(), LoadError> {
    let asked = [
        ("a draft model", options.draft.is_some()),
        ("guessing ahead from the text", options.lookup_tokens > 0),
    ];
    let asked = asked.into_iter().find(|(_, asked)| *asked && state_bytes(description, 1) > 0);
    asked.map_or(Ok(()), |(option, _)| Err(LoadError::Stateful { path: path.to_owned(), option }))
}

pub(super) fn context(options: &LoadOptions, limit: usize) -> Result<u32, LoadError> {
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    match options.context_tokens {
        Some(asked) if asked > limit => Err(LoadError::Context { asked, limit }),
        Some(asked) => Ok(asked),
        None => Ok(limit),
    }
}

/// Rows of a step up to which a row's result depends on no other.
pub(super) fn exact_rows(device: &Device) -> Option<usize> {
    (device.execution() == Execution::Host).then_some(mlxcel_kernels::FEW_ROWS)
}

/// Blocks of KV cache that fit beside the weights, at most `wanted`.
fn kv_blocks(block_bytes: u64, memory: u64, weight_bytes: u64, wanted: usize) -> usize {
    let free = memory.saturating_sub(weight_bytes) as f64 * KV_MEMORY_SHARE;
    let fitting = free / block_bytes as f64;
    wanted.min(fitting as usize)
}
