//! A rank that follows: computes its part of every step that the leader plans.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use mlxcel_mlx_bridge::{Array, async_eval, eval};

use super::member::{Member, ReplicaOptions};
use super::plans::PlanReceiver;
use crate::api::{LoadOptions, LoadStep};
use crate::decoder::StepOutput;
use crate::schedule::StepPlan;
use crate::serving::LoadError;

/// A rank that follows, on a thread of its own. Dropping it ends the rank, and with it the replica.
pub struct Follower {
    shared: Arc<Shared>,
    weight_bytes: u64,
    thread: Option<JoinHandle<()>>,
}

/// What a follower holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FollowerState {
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Steps computed.
    pub steps: u64,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    steps: AtomicU64,
}

/// Told, once, why a rank ended that nobody dropped.
pub type OnFailure = Box<dyn FnOnce(String) + Send>;

impl Follower {
    /// Loads the rank's part of the model in `path`, meets the other ranks, and follows the leader from then on.
    /// `on_failure` is told when that ends before this is dropped: a rank was lost, or a step failed.
    ///
    /// # Errors
    /// As of [`load`](crate::load); and when the ranks do not find together.
    pub fn start(
        path: &Path,
        load: &LoadOptions,
        options: ReplicaOptions,
        on_failure: OnFailure,
        progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Self, LoadError> {
        let (steps, progressed) = mpsc::channel();
        let (result, started) = mpsc::sync_channel(1);
        let (path, load, shared) = (path.to_owned(), load.clone(), Arc::new(Shared::default()));
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("rank".to_owned()).spawn(move || {
            let joined = Member::join(&path, &load, options, &mut |step| drop(steps.send(step)));
            drop(steps);
            match joined {
                Ok(member) => {
                    let bytes = member.rank.weight_bytes();
                    if result.send(Ok(bytes)).is_ok() {
                        follow(member, &of_thread, on_failure);
                    }
                }
                // The caller waits for it.
                Err(error) => drop(result.send(Err(error))),
            }
        });
        let thread = thread.map_err(|error| LoadError::Thread(format!("could not be started: {error}")))?;
        progressed.iter().for_each(progress);
        let started = started.recv().map_err(|_| LoadError::Thread("died while loading".to_owned()))?;
        Ok(Self { shared, weight_bytes: started?, thread: Some(thread) })
    }

    /// What it holds and has done.
    #[must_use]
    pub fn state(&self) -> FollowerState {
        let steps = self.shared.steps.load(Ordering::Relaxed);
        FollowerState { weight_bytes: self.weight_bytes, steps }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic has been told by the failure of the replica.
            drop(thread.join());
        }
    }
}

fn follow(member: Member, shared: &Shared, on_failure: OnFailure) {
    let options = &member.attendance.options;
    let plans = PlanReceiver::new(options.transport.clone(), options.ranks[options.layout.leader()]);
    let following = Following { member, plans, under_way: VecDeque::new() };
    if let Err(reason) = following.run(shared) {
        on_failure(reason);
    }
}

struct Following {
    member: Member,
    plans: PlanReceiver,
    /// What the steps under way come to.
    under_way: VecDeque<Array>,
}

impl Following {
    /// Runs steps until the rank is dropped. The others learn why it ends otherwise.
    fn run(mut self, shared: &Shared) -> Result<(), String> {
        let ended = self.follow(shared);
        if let Err(reason) = &ended {
            self.member.attendance.leave(Some(reason));
        }
        ended
    }

    fn follow(&mut self, shared: &Shared) -> Result<(), String> {
        while !shared.ends.load(Ordering::Relaxed) {
            match self.plans.receive(GLANCE) {
                Ok(Some(plan)) => {
                    self.step(plan)?;
                    shared.steps.fetch_add(1, Ordering::Relaxed);
                }
                Ok(None) => self.settle(0)?,
                Err(error) => return Err(self.lost().unwrap_or_else(|| error.to_string())),
            }
            if let Some(lost) = self.lost() {
                return Err(lost);
            }
        }
        self.settle(0)
    }

    fn step(&mut self, plan: StepPlan) -> Result<(), String> {
        let output = self.member.forward(plan).map_err(|error| self.reason(&error))?;
        let (StepOutput::Logits(array) | StepOutput::Computed(array) | StepOutput::Hidden(array)) = output;
        async_eval(&[&array]).map_err(|error| self.reason(&error))?;
        self.under_way.push_back(array);
        self.settle(STEPS_AHEAD)
    }

    /// Waits until no more than `most` steps are under way.
    fn settle(&mut self, most: usize) -> Result<(), String> {
        while self.under_way.len() > most {
            if let Some(array) = self.under_way.pop_front() {
                eval(&[&array]).map_err(|error| self.reason(&error))?;
            }
        }
        Ok(())
    }

    /// Why a step failed: that a rank was lost, where one was, not what followed from it.
    fn reason(&self, error: &mlxcel_mlx_bridge::Error) -> String {
        self.lost().unwrap_or_else(|| format!("a step failed: {error}"))
    }

    fn lost(&self) -> Option<String> {
        self.member.attendance.lost()
    }
}

/// How often a rank without work looks after the others.
const GLANCE: Duration = Duration::from_millis(50);
/// Steps whose results nobody has looked at: one computes while the next is built.
const STEPS_AHEAD: usize = 2;
