//! A request's life: chosen, started, first token, finished, and what a failure means at each point.
//!
//! A failure that another node or a later try may not share costs a retry, which goes on behind what has been told.
//! Chooses no node itself (`dispatch`), sends nothing (`relay`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mlxcel_protocol::v1::FailureKind;

use super::assembly::Assembly;
use super::cost::Ask;
use super::dispatch::{self, Absence, Choice, Standing, Wish};
use super::fleet::{Fleet, NodeId};
use super::member::Member;
use super::prefixes::Cuts;
use super::refusal::Refusal;
use super::watchdog::{GLANCE, Judgement, MOST_MOVES, Watchdog};

/// How many workers may crash under one request before it is taken for the cause.
pub(crate) const MOST_CRASHES: u32 = 3;

/// The first pause before a node that failed a request is tried again with it; doubles up to
/// `LONGEST_PAUSE`.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest such pause.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What to do next for a request that is on no node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Send it to this node.
    Generate(NodeId),
    /// Have this node load the model, unless that is under way, then ask again.
    Load(NodeId),
    /// Form this replica, unless that is under way, then ask again.
    Assemble(Assembly),
    /// Wait for room; ask again when it is this request's turn.
    Queue,
    /// Ask again when the fleet has changed, and at this time at the latest.
    Wait(Option<Instant>),
    /// Give up.
    Refuse(Refusal),
}

/// What happened to a request on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happening {
    /// The prompt is admitted: so many tokens, on this device. No token yet.
    Started { prompt_tokens: u32, device: Option<u32> },
    /// Output came.
    Delta,
    /// The request ended well.
    Finished,
    /// The node says it failed.
    Failed(FailureKind, String),
    /// The connection to the node, or the request's stream on it, broke.
    Lost(String),
}

/// What a happening means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing for the client yet.
    Hold,
    /// Pass it on.
    Forward,
    /// Leave this node and ask for the next step; another goes on behind what has been told. Holds the cause, for the log.
    Retry(String),
    /// Tell the client; nothing follows.
    Fail(Refusal),
}

/// What is to be done about a stream that is silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Nothing; look again then.
    Until(Instant),
    /// Leave this node and ask for the next step, as after [`Verdict::Retry`].
    Move(String),
}

/// One request.
#[derive(Debug)]
pub(crate) struct Attempt {
    model: String,
    patience: Duration,
    waited: Duration,
    waiting_since: Option<Instant>,
    phase: Phase,
    setbacks: BTreeMap<NodeId, Setback>,
    crashes: u32,
    /// Whether it has been on a node: then it waits for nobody's turn any more.
    begun: bool,
    /// Others go first.
    held_back: bool,
    wish: Wish,
    cuts: Cuts,
    /// How often it has left a node that was not lost.
    moves: u32,
    last_failure: Option<(FailureKind, String)>,
}

#[derive(Debug, Clone)]
enum Phase {
    Choosing,
    Sent(NodeId, Watchdog),
    Started(NodeId, Watchdog),
    Ended,
}

/// How a node failed this request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setback {
    kind: SetbackKind,
    /// The earliest retry.
    until: Instant,
    times: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SetbackKind {
    /// Had no room.
    Busy,
    /// What made it fail should show in a later report, or in its return under a new epoch.
    Stale { epoch: u64, reports: u64 },
    /// Its engine failed; it would again.
    Broken,
}

impl Attempt {
    /// A request for `model` that may wait `patience` in all for a node to serve it.
    pub(crate) fn new(model: &str, patience: Duration) -> Self {
        Self {
            model: model.to_owned(),
            patience,
            waited: Duration::ZERO,
            waiting_since: None,
            phase: Phase::Choosing,
            setbacks: BTreeMap::new(),
            crashes: 0,
            begun: false,
            held_back: false,
            wish: Wish::default(),
            cuts: Cuts::default(),
            moves: 0,
            last_failure: None,
        }
    }

    /// What it asks of a node, and its prompt's cuts.
    pub(crate) fn asking(mut self, ask: Ask, cuts: Cuts) -> Self {
        self.wish.ask = ask;
        self.cuts = cuts;
        self
    }

    pub(crate) fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    pub(crate) fn ask(&self) -> Ask {
        self.wish.ask
    }

    /// The model asked for.
    pub(crate) fn model(&self) -> &str {
        &self.model
    }

    /// Whether it has been on a node.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether it is to wait where it could go, since it is another's turn; of no effect once it has begun. And how many wait
    /// behind it.
    pub(crate) fn hold_back(&mut self, held_back: bool, queued: u32) {
        self.held_back = held_back;
        self.wish.queued = queued;
    }

    /// What to do now. Only asked while the request is on no node.
    pub(crate) fn next(&mut self, fleet: &Fleet, now: Instant) -> Step {
        self.wish.crowds = self.begun;
        self.wish.overlaps = fleet.overlaps(&self.cuts);
        let standing = |id: &NodeId, m: &Member| self.standing(id, m, now);
        let choice = match dispatch::choose(fleet, &self.model, now, standing, &self.wish) {
            Choice::Serve(_) if self.held_back && !self.begun => Choice::Full,
            choice => choice,
        };
        match choice {
            Choice::Serve(node) => {
                self.stop_waiting(now);
                self.begun = true;
                self.wish.ask.had = self.wish.overlaps.get(&node).copied().unwrap_or(0.0);
                self.phase = Phase::Sent(node.clone(), Watchdog::new(now));
                Step::Generate(node)
            }
            Choice::Load(node) => {
                self.stop_waiting(now);
                Step::Load(node)
            }
            Choice::Assemble(assembly) => {
                self.stop_waiting(now);
                Step::Assemble(assembly)
            }
            // However long a load takes: it ends, and a node that hangs is lost.
            Choice::Loading => {
                self.stop_waiting(now);
                Step::Wait(None)
            }
            // However long that takes: those before it end, or their nodes are lost.
            Choice::Full => {
                self.stop_waiting(now);
                Step::Queue
            }
            Choice::Busy => self.wait(now, Absence::Away),
            Choice::Nowhere(Absence::Unknown) => self.end(Refusal::UnknownModel {
                model: self.model.clone(),
                served: fleet.models().into_keys().map(str::to_owned).collect(),
            }),
            Choice::Nowhere(Absence::LoadFailed(message)) => {
                self.end(Refusal::LoadFailed { model: self.model.clone(), message })
            }
            Choice::Nowhere(absence) if self.is_hopeless(fleet) => {
                let refusal = self.refusal(absence);
                self.end(refusal)
            }
            Choice::Nowhere(absence) => self.wait(now, absence),
        }
    }

    /// Something happened on the node the request was sent to.
    pub(crate) fn on(&mut self, happening: Happening, fleet: &Fleet, now: Instant) -> Verdict {
        let (node, mut watchdog) = match &self.phase {
            Phase::Sent(node, watchdog) | Phase::Started(node, watchdog) => (node.clone(), watchdog.clone()),
            Phase::Choosing | Phase::Ended => return Verdict::Hold,
        };
        match happening {
            Happening::Started { prompt_tokens, device } => {
                watchdog.started(prompt_tokens, device, now);
                self.phase = Phase::Started(node, watchdog);
                Verdict::Hold
            }
            Happening::Delta => {
                watchdog.delta(now);
                self.phase = Phase::Started(node, watchdog);
                // Whatever took workers down before has been overcome.
                self.crashes = 0;
                Verdict::Forward
            }
            Happening::Finished => {
                self.phase = Phase::Ended;
                Verdict::Forward
            }
            Happening::Failed(kind, message) => self.failed(node, (kind, message), fleet, now),
            Happening::Lost(cause) => {
                self.set_back(&node, fleet, now, FailureKind::WorkerLost);
                let cause = format!("node {node} was lost: {cause}");
                self.last_failure = Some((FailureKind::WorkerLost, cause.clone()));
                self.phase = Phase::Choosing;
                Verdict::Retry(cause)
            }
        }
    }

    /// Looks after a request that is on a node and of which nothing was heard for a while. It leaves the node only for
    /// another that can go on with it at once, and only so often.
    pub(crate) fn watch(&mut self, fleet: &Fleet, now: Instant) -> Watch {
        let later = Watch::Until(now + GLANCE);
        let (Phase::Sent(node, watchdog) | Phase::Started(node, watchdog)) = &self.phase else {
            return later;
        };
        // Who is on a lost node hears of it by its connection.
        let Some(member) = fleet.get(node).filter(|member| member.alive()) else { return later };
        let why = match watchdog.judge(member, &self.model, now) {
            Judgement::Well(until) => return Watch::Until(until),
            Judgement::Stalled(why) => why,
        };
        let standing = |id: &NodeId, m: &Member| self.standing(id, m, now);
        if self.moves >= MOST_MOVES || !dispatch::has_another(fleet, &self.model, now, node, standing) {
            return later;
        }
        let (node, cause) = (node.clone(), format!("node {node} is stalled: {why}"));
        self.moves += 1;
        self.set_back(&node, fleet, now, FailureKind::WorkerLost);
        self.last_failure = Some((FailureKind::WorkerLost, cause.clone()));
        self.phase = Phase::Choosing;
        Watch::Move(cause)
    }

    fn failed(
        &mut self,
        node: NodeId,
        (kind, message): (FailureKind, String),
        fleet: &Fleet,
        now: Instant,
    ) -> Verdict {
        match kind {
            FailureKind::InvalidRequest => return self.fail(Refusal::Invalid(message)),
            FailureKind::DeadlineExceeded => return self.fail(Refusal::DeadlineExceeded(message)),
            _ => {}
        }
        if kind == FailureKind::WorkerLost && matches!(self.phase, Phase::Started(..)) {
            self.crashes += 1;
            if self.crashes >= MOST_CRASHES {
                return self.fail(Refusal::Crashes { times: self.crashes, message });
            }
        }
        self.set_back(&node, fleet, now, kind);
        self.last_failure = Some((kind, message.clone()));
        self.phase = Phase::Choosing;
        Verdict::Retry(format!("node {node}: {message}"))
    }

    fn set_back(&mut self, node: &NodeId, fleet: &Fleet, now: Instant, kind: FailureKind) {
        let times = self.setbacks.get(node).map_or(0, |s| s.times) + 1;
        let pause = FIRST_PAUSE.saturating_mul(1 << (times - 1).min(8)).min(LONGEST_PAUSE);
        let (epoch, reports) = fleet.get(node).map_or((0, 0), |m| (m.epoch, m.reports));
        let setback = Setback {
            kind: match kind {
                FailureKind::Overloaded => SetbackKind::Busy,
                FailureKind::WorkerLost | FailureKind::Draining | FailureKind::ModelNotFound => {
                    SetbackKind::Stale { epoch, reports }
                }
                FailureKind::Internal
                | FailureKind::InvalidRequest
                | FailureKind::DeadlineExceeded
                | FailureKind::Unspecified => SetbackKind::Broken,
            },
            until: now + pause,
            times,
        };
        self.setbacks.insert(node.clone(), setback);
    }

    fn standing(&self, node: &NodeId, member: &Member, now: Instant) -> Standing {
        let Some(setback) = self.setbacks.get(node) else {
            return Standing::Free;
        };
        let paused = now < setback.until;
        match setback.kind {
            SetbackKind::Broken => Standing::Failed,
            SetbackKind::Busy if paused => Standing::Busy,
            SetbackKind::Stale { epoch, reports }
                if paused || (member.epoch == epoch && member.reports <= reports) =>
            {
                Standing::Failed
            }
            SetbackKind::Busy | SetbackKind::Stale { .. } => Standing::Free,
        }
    }

    /// Whether every living node that has or could load the model has failed in a way that waiting
    /// does not mend.
    fn is_hopeless(&self, fleet: &Fleet) -> bool {
        let broken = |id: &NodeId| self.setbacks.get(id).is_some_and(|s| s.kind == SetbackKind::Broken);
        let mut able = fleet.alive().filter(|(_, m)| m.report.knows(&self.model)).peekable();
        able.peek().is_some() && able.all(|(id, _)| broken(id))
    }

    fn wait(&mut self, now: Instant, absence: Absence) -> Step {
        let since = *self.waiting_since.get_or_insert(now);
        let deadline = since + self.patience.saturating_sub(self.waited);
        if now >= deadline {
            let refusal = self.refusal(absence);
            return self.end(refusal);
        }
        let pauses = self.setbacks.values().map(|s| s.until).filter(|t| *t > now);
        let wake = pauses.fold(deadline, Instant::min);
        Step::Wait(Some(wake))
    }

    fn stop_waiting(&mut self, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.saturating_duration_since(since);
        }
    }

    fn refusal(&self, absence: Absence) -> Refusal {
        match &self.last_failure {
            Some((FailureKind::Overloaded, message)) => Refusal::Overloaded(message.clone()),
            Some((FailureKind::Internal | FailureKind::Unspecified, message)) => {
                Refusal::Internal(message.clone())
            }
            last => Refusal::NoNode {
                model: self.model.clone(),
                waited: self.patience,
                why: match (last, absence) {
                    (Some((_, message)), _) => message.clone(),
                    (None, Absence::NoNodes) => "no node is connected".to_owned(),
                    (None, _) => "the nodes that have it are lost, draining or restarting".to_owned(),
                },
            },
        }
    }

    fn end(&mut self, refusal: Refusal) -> Step {
        self.phase = Phase::Ended;
        Step::Refuse(refusal)
    }

    fn fail(&mut self, refusal: Refusal) -> Verdict {
        self.phase = Phase::Ended;
        Verdict::Fail(refusal)
    }
}
