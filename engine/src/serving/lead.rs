//! Loading a model as the rank that leads a replica: an engine like any other, whose steps several processes compute.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::command::SharedState;
use super::load::{
    AGEING, DEFAULT_MAX_SEQUENCES, LoadError, context, exact_rows, on_thread, refuse_guesses, trace_rows,
};
use super::thread::{EngineHandle, EngineThread};
use crate::api::{Engine, EngineState, EventSink, LoadOptions, LoadStep};
use crate::blocks::BLOCK_TOKENS;
use crate::decoder::{kv_bytes_per_token, state_bytes};
use crate::described::described;
use crate::device::Device;
use crate::replica::{Attendance, JoinError, Leader, Member, OnFailure, ReplicaOptions};
use crate::request::Request;
use crate::schedule::{Scheduler, SchedulerLimits};
use crate::state::block_store;
use crate::text::TextCodec;

/// Loads the leader's part of the model in `path`, meets the other ranks of the replica, which load theirs, and starts
/// the engine. `on_failure` is told when a rank is lost before the engine is dropped: it serves nothing from then on.
///
/// # Errors
/// As of [`load`](crate::load); and when the ranks do not find together, this is not the rank that leads, or a draft
/// model is asked for, which a replica cannot have.
pub fn load_leader(
    path: &Path,
    options: &LoadOptions,
    replica: ReplicaOptions,
    on_failure: OnFailure,
    progress: &mut dyn FnMut(LoadStep),
) -> Result<Box<dyn Engine>, LoadError> {
    if options.draft.is_some() {
        let reason = "a model divided over several devices takes no draft model".to_owned();
        return Err(JoinError::Unsupported(reason).into());
    }
    if replica.rank != replica.layout.leader() {
        return Err(JoinError::Disagreement(format!("rank {} does not lead", replica.rank)).into());
    }
    let (path, options) = (path.to_owned(), options.clone());
    let (joined, attendance) = mpsc::sync_channel(1);
    let start = move |progress: &mut dyn FnMut(LoadStep)| start(&path, &options, replica, &joined, progress);
    let engine = on_thread(start, progress)?;
    let attendance = attendance.recv().map_err(|_| LoadError::Thread("died while loading".to_owned()))?;
    Ok(Box::new(Led { engine, _watched: watch(attendance, on_failure)? }))
}

fn start(
    path: &Path,
    options: &LoadOptions,
    replica: ReplicaOptions,
    joined: &mpsc::SyncSender<Arc<Attendance>>,
    progress: &mut dyn FnMut(LoadStep),
) -> Result<(EngineThread, EngineHandle), LoadError> {
    let (checkpoint, description) = described(path)?;
    let vocab_size = u32::try_from(description.vocab_size).unwrap_or(u32::MAX);
    let codec = Arc::new(TextCodec::new(&checkpoint.text_assets()?, vocab_size)?);
    drop(checkpoint);
    refuse_guesses(path, &description, options)?;
    let blocks = replica.blocks;
    let room = u32::try_from(blocks * BLOCK_TOKENS).unwrap_or(u32::MAX);
    let context_tokens = context(options, description.max_context)?.min(room);
    let device = Device::choose(options.device)?;
    let wide = usize::from(device.has_wide_steps());
    let limits = SchedulerLimits {
        max_sequences: options.max_sequences.unwrap_or(DEFAULT_MAX_SEQUENCES[wide]) as usize,
        step_tokens: replica.step_tokens,
        ageing: AGEING,
        stages: replica.micro_batches(),
        exact_rows: exact_rows(&device),
    };
    let member = Member::join(path, options, replica, progress)?;
    // Who loads waits for it.
    let _ = joined.send(member.attendance());
    let state = Arc::new(SharedState::new(context_tokens, member.weight_bytes(), blocks));
    let (commands, receiver) = mpsc::channel();
    let handle = EngineHandle::new(commands, Arc::clone(&codec), Arc::clone(&state));
    // The share of a rank may have neither: how often states are kept follows from the whole model.
    let kv_bytes = kv_bytes_per_token(&description, options.kv_dtype, VALUE_BYTES) * BLOCK_TOKENS as u64;
    let store = block_store(blocks, limits.max_sequences, [state_bytes(&description, VALUE_BYTES), kv_bytes]);
    let scheduler = Scheduler::new(limits, store);
    let trace = options.trace.as_ref().map(|trace| trace_rows(trace, path));
    let thread = EngineThread::new((Box::new(Leader::new(member)), codec), scheduler, receiver, state, trace)
        .map_err(|error| LoadError::Thread(format!("could not start one for delivery: {error}")))?;
    Ok((thread.guessing(options.lookup_tokens as usize, None), handle))
}

/// The engine of a replica, and what looks after its other ranks.
struct Led {
    engine: EngineHandle,
    /// Dropped with the engine.
    _watched: mpsc::Sender<()>,
}

impl Engine for Led {
    fn submit(&self, request: Request, events: EventSink) {
        self.engine.submit(request, events);
    }

    fn cancel(&self, id: &str) {
        self.engine.cancel(id);
    }

    fn state(&self) -> EngineState {
        self.engine.state()
    }
}

/// Tells `on_failure` when a rank is lost, until what is returned is dropped: an engine without requests computes no
/// step that would fail.
fn watch(attendance: Arc<Attendance>, on_failure: OnFailure) -> Result<mpsc::Sender<()>, LoadError> {
    let (watched, dropped) = mpsc::channel::<()>();
    let watch = move || {
        while dropped.recv_timeout(GLANCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            if let Some(lost) = attendance.lost() {
                return on_failure(lost);
            }
        }
    };
    std::thread::Builder::new()
        .name("replica".to_owned())
        .spawn(watch)
        .map_err(|error| LoadError::Thread(format!("could not start one to look after ranks: {error}")))?;
    Ok(watched)
}

/// Of a float, where only the proportion of two sizes matters.
const VALUE_BYTES: usize = 4;
const GLANCE: Duration = Duration::from_millis(50);
