//! A rank of a replica that has met the others: its part of the model, and the ways in and out of its stage.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlxcel_mlx_bridge::{Array, Dtype, Result, eval};
use mlxcel_transport::collective::{FormError, Group, GroupConfig};
use mlxcel_transport::{Channel, Key, OpError, PeerId, RegisterError, Transport, TransportExt};

use super::attendance::Attendance;
use super::hidden::{Inlet, Outlet, STEP_PATIENCE, Slots};
use super::layout::Layout;
use crate::api::{LoadOptions, LoadStep};
use crate::decoder::{Execution, StepOutput, length};
use crate::device::Device;
use crate::rank::{Rank, RankOptions};
use crate::ranks::{HostRanks, Ranks};
use crate::schedule::StepPlan;
use crate::serving::LoadError;

/// What all ranks of a replica agree on, and which of them this is.
#[derive(Clone)]
pub struct ReplicaOptions {
    /// How the model is divided.
    pub layout: Layout,
    /// Which rank this process is.
    pub rank: usize,
    /// The ranks' ends of the data plane, by number; this process's own among them.
    pub ranks: Vec<PeerId>,
    /// Connected to all other ranks.
    pub transport: Arc<dyn Transport>,
    /// Blocks of the KV cache of every rank.
    pub blocks: usize,
    /// Most tokens in one step.
    pub step_tokens: usize,
    /// Steps under way at a time, each of a part of the sequences: as many as there are stages, when absent. The
    /// leader's affair.
    pub micro_batches: Option<usize>,
}

impl ReplicaOptions {
    /// Steps that are under way at a time.
    pub(crate) fn micro_batches(&self) -> usize {
        let stages = self.layout.stages().len();
        self.micro_batches.map_or(stages, |most| most.clamp(1, stages))
    }
}

/// Why ranks do not form a replica.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The ranks of a stage do not form a group.
    #[error("the ranks of a stage do not find together: {0}")]
    Group(#[from] FormError),
    /// Another rank did not take part.
    #[error("rank {rank} did not take part: {error}")]
    Rank {
        /// Which rank.
        rank: usize,
        /// How telling it, or hearing from it, ended.
        error: OpError,
    },
    /// Memory for hidden states could not be registered.
    #[error("cannot register memory for hidden states: {0}")]
    Register(#[from] RegisterError),
    /// A replica cannot be so.
    #[error("{0}")]
    Unsupported(String),
    /// Ranks do not mean the same replica.
    #[error("the ranks do not agree: {0}")]
    Disagreement(String),
}

/// A rank that is ready to run steps.
pub(crate) struct Member {
    pub(super) rank: Rank,
    inlet: Option<(Inlet, Dtype)>,
    outlet: Option<Outlet>,
    pub(super) attendance: Arc<Attendance>,
}

impl Member {
    /// Loads the rank's part of the model in `path`, and meets the other ranks. Blocks until all have loaded theirs.
    pub(crate) fn join(
        path: &Path,
        load: &LoadOptions,
        options: ReplicaOptions,
        progress: &mut dyn FnMut(LoadStep),
    ) -> std::result::Result<Self, LoadError> {
        let (ranks, told, own) = (options.layout.ranks(), options.ranks.len(), options.rank);
        let disagreement =
            || JoinError::Disagreement(format!("rank {own} of {ranks}, {told} of which are known"));
        if told != ranks {
            return Err(disagreement().into());
        }
        let place = options.layout.place(own).ok_or_else(disagreement)?;
        let stage = options.layout.stage_of(own).ok_or_else(disagreement)?;
        let device = Device::choose(load.device)?;
        if place.ranks > 1 && device.execution() != Execution::Host {
            let what = "GPUs cannot share layers yet; divide the model by layers, such as with --layout 1+1";
            return Err(JoinError::Unsupported(what.to_owned()).into());
        }
        let alike = &options.ranks[options.layout.ranks_of(stage)];
        let group = (alike.len() > 1).then(|| group(&options.transport, alike)).transpose()?;
        let rank_options =
            RankOptions { place, quantize: load.quantize, kv_dtype: load.kv_dtype, blocks: options.blocks };
        let rank = Rank::load(path, &device, &rank_options, group, progress)?;
        let meeting = Meeting { options: &options, stage };
        let (inlet, outlet) = meeting.connect_stages(&rank)?;
        meeting.wait_for_all()?;
        Ok(Self { rank, inlet, outlet, attendance: Arc::new(Attendance::new(options)) })
    }

    /// Bytes of the weights it holds.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.rank.weight_bytes()
    }

    /// Its part of a step; hidden states are passed on when the result is evaluated.
    pub(super) fn forward(&mut self, plan: StepPlan) -> Result<StepOutput> {
        let tokens = plan.len();
        let hidden = match &mut self.inlet {
            Some((inlet, dtype)) => {
                let width = self.rank.hidden_size();
                Some(inlet.receive([length(tokens), length(width)], *dtype)?)
            }
            None => None,
        };
        let output = self.rank.forward(plan, hidden)?;
        Ok(match (output, &mut self.outlet) {
            (StepOutput::Hidden(hidden), Some(outlet)) => StepOutput::Computed(outlet.send(&hidden)?),
            (output, _) => output,
        })
    }

    /// Who is there of the replica.
    pub(crate) fn attendance(&self) -> Arc<Attendance> {
        Arc::clone(&self.attendance)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.attendance.leave(self.attendance.lost().as_deref());
    }
}

fn group(transport: &Arc<dyn Transport>, ranks: &[PeerId]) -> std::result::Result<Box<dyn Ranks>, JoinError> {
    // Parts of a model take unequally long to compute where devices are unequal; that one is lost is known at once.
    let config = GroupConfig { timeout: STEP_PATIENCE, ..GroupConfig::new(1) };
    let ranks = HostRanks::new(Group::form(Arc::clone(transport), ranks, config)?);
    // Whoever fails before the first step is noticed, too.
    let sum = Array::zeros(&[1], Dtype::Float32).and_then(|zero| ranks.all_sum(&zero));
    sum.and_then(|sum| eval(&[&sum])).map_err(|error| JoinError::Disagreement(error.to_string()))?;
    Ok(Box::new(ranks))
}

/// The ranks while they get ready.
struct Meeting<'a> {
    options: &'a ReplicaOptions,
    stage: usize,
}

impl Meeting<'_> {
    /// The way in from the stage before, with the dtype of what comes, and the way out to the next one. The first rank
    /// of a stage speaks for it: after their sums all have the same.
    fn connect_stages(&self, rank: &Rank) -> std::result::Result<(Inbound, Option<Outlet>), JoinError> {
        let Self { options, stage } = self;
        let layout = &options.layout;
        // Whatever dtype the stage before computes in.
        let step_bytes = options.step_tokens * rank.hidden_size() * Dtype::Float32.size();
        let slots = Slots::new(layout.stages().len(), step_bytes);
        let inlet = match stage.checked_sub(1) {
            Some(before) => {
                let from = layout.ranks_of(before).start;
                let inlet = Inlet::open(&options.transport, options.ranks[from], slots)?;
                self.tell(from, inlet.key().to_bytes().into())?;
                Some((inlet, from))
            }
            None => None,
        };
        let speaks = layout.ranks_of(*stage).start == options.rank && *stage + 1 < layout.stages().len();
        let outlet = if speaks {
            let next = layout.ranks_of(stage + 1);
            let keys = next.clone().map(|to| self.key_of(to)).collect::<std::result::Result<_, _>>()?;
            for to in next {
                self.tell(to, Bytes::from(rank.dtype().to_string()))?;
            }
            Some(Outlet::open(&options.transport, keys, slots)?)
        } else {
            None
        };
        let inlet =
            inlet.map(|(inlet, from)| Ok::<_, JoinError>((inlet, self.dtype_of(from)?))).transpose()?;
        Ok((inlet, outlet))
    }

    /// Returns when every rank has come so far.
    fn wait_for_all(&self) -> std::result::Result<(), JoinError> {
        let others = || (0..self.options.ranks.len()).filter(|rank| *rank != self.options.rank);
        for rank in others() {
            self.tell(rank, Bytes::from_static(READY))?;
        }
        for rank in others() {
            let said = self.hear(rank)?;
            if said != READY {
                return Err(JoinError::Disagreement(format!(
                    "rank {rank} says something else than that it is ready"
                )));
            }
        }
        Ok(())
    }

    fn key_of(&self, rank: usize) -> std::result::Result<Key, JoinError> {
        let key = Key::from_bytes(&self.hear(rank)?);
        let key =
            key.map_err(|error| JoinError::Disagreement(format!("rank {rank} sent no key: {error}")))?;
        match key.owner == self.options.ranks[rank] {
            true => Ok(key),
            false => Err(JoinError::Disagreement(format!("rank {rank} sent another's key"))),
        }
    }

    fn dtype_of(&self, rank: usize) -> std::result::Result<Dtype, JoinError> {
        let said = self.hear(rank)?;
        let known = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];
        let dtype = known.into_iter().find(|dtype| dtype.to_string().as_bytes() == said);
        dtype.ok_or_else(|| {
            JoinError::Disagreement(format!("rank {rank} sends hidden states of an unknown dtype"))
        })
    }

    fn tell(&self, rank: usize, what: Bytes) -> std::result::Result<(), JoinError> {
        let ReplicaOptions { transport, ranks, .. } = self.options;
        let sent = transport.send(ranks[rank], MEETING, what, Instant::now() + LOADING_PATIENCE);
        transport.wait(sent).map_err(|error| JoinError::Rank { rank, error })
    }

    fn hear(&self, rank: usize) -> std::result::Result<Bytes, JoinError> {
        let ReplicaOptions { transport, ranks, .. } = self.options;
        let (deadline, domain) = (Instant::now() + LOADING_PATIENCE, transport.domain());
        loop {
            if let Some(said) = domain.try_receive(ranks[rank], MEETING) {
                return Ok(said);
            }
            let readable = domain.readable(ranks[rank], MEETING, deadline);
            transport.wait(readable).map_err(|error| JoinError::Rank { rank, error })?;
        }
    }
}

type Inbound = Option<(Inlet, Dtype)>;

/// What ranks say to each other before the first step.
const MEETING: Channel = Channel(2);
const READY: &[u8] = b"ready";
/// Others may still read their part of the files.
const LOADING_PATIENCE: Duration = Duration::from_secs(3600);
