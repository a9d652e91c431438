//! The nodes this router is connected to, shared by everything that talks to or about them.
//!
//! Puts the fleet, each node's connection and a signal of change behind one lock. Opens no
//! connection (`link` does) and chooses no node (`core` does).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use mlxcel_protocol::v1::node_client::NodeClient;
use mlxcel_protocol::v1::{Finished, NodeState};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::core::assembly::{Assembly, RankPlace};
use crate::core::attempt::{Attempt, Happening, Step, Verdict, Watch};
use crate::core::fleet::{Failed, Fleet, NodeId, Pick, SILENCE};
use crate::core::queue::{self, Full, Queue, Ticket};
use crate::core::refusal::Refusal;
use crate::core::report::Report;
use crate::relay::turn::Turn;

/// Shared knowledge of the nodes. Clones are the same roster.
#[derive(Debug, Clone)]
pub(crate) struct Roster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    fleet: Fleet,
    queue: Queue,
    /// Those who wait in the queue.
    called: HashMap<Ticket, Arc<Notify>>,
    links: HashMap<NodeId, Link>,
    latest: BTreeMap<NodeId, NodeState>,
}

/// A connection to a node.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) client: NodeClient<Channel>,
    pub(crate) loss: Loss,
}

/// Tells all who use a connection that it is gone, and why.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loss {
    token: CancellationToken,
    cause: Arc<OnceLock<String>>,
}

impl Loss {
    /// Ends when the connection is gone; says why.
    pub(crate) async fn wait(&self) -> String {
        self.token.cancelled().await;
        self.cause.get().map_or("the connection ended", String::as_str).to_owned()
    }

    fn declare(&self, cause: &str) {
        // The first cause is the one: what follows is its consequence.
        let _ = self.cause.set(cause.to_owned());
        self.token.cancel();
    }

    fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cause, &other.cause)
    }
}

/// What a request is to do, with what it needs for it.
#[derive(Debug)]
pub(crate) enum Order {
    /// Go to this node.
    Go(Pick, Link),
    /// The model has to be loaded there; nobody is doing it yet.
    Load(NodeId, Link),
    /// The replica has to be formed of these nodes, one for each rank; nobody is doing it yet.
    Assemble(Assembly, Vec<Link>),
    /// Wait to be called.
    Queue,
    /// Wait for a change, until then at most.
    Wait(Option<Instant>),
    /// Give up.
    Refuse(Refusal),
}

impl Roster {
    /// No nodes, and a queue of this size.
    pub(crate) fn new(limits: queue::Limits) -> Self {
        let state = State {
            fleet: Fleet::default(),
            queue: Queue::new(limits),
            called: HashMap::new(),
            links: HashMap::new(),
            latest: BTreeMap::new(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(()) }))
    }

    /// Changes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Looks at the fleet.
    pub(crate) fn fleet<T>(&self, look: impl FnOnce(&Fleet) -> T) -> T {
        look(&self.lock().fleet)
    }

    /// Looks at the living nodes, each with its latest state as it came.
    pub(crate) fn latest<T>(&self, look: impl FnOnce(&Fleet, &BTreeMap<NodeId, NodeState>) -> T) -> T {
        let state = self.lock();
        look(&state.fleet, &state.latest)
    }

    /// A connection to the node works. An older one to the same node is given up.
    pub(crate) fn connected(&self, node: &NodeId, client: NodeClient<Channel>) -> Loss {
        let loss = Loss::default();
        let link = Link { client, loss: loss.clone() };
        let old = self.lock().links.insert(node.clone(), link);
        if let Some(old) = old {
            old.loss.declare("replaced by a new connection");
        }
        loss
    }

    /// The node reported over the connection that `loss` belongs to.
    pub(crate) fn heard(&self, node: &NodeId, loss: &Loss, state: NodeState) {
        let mut guard = self.lock();
        let current = guard.links.get(node).is_some_and(|l| l.loss.same(loss));
        if !current {
            return;
        }
        guard.fleet.heard(node, Report::new(&state), now());
        guard.latest.insert(node.clone(), state);
        guard.call_first(now());
        drop(guard);
        self.0.changed.send_replace(());
    }

    /// The node gave a sign of life over the connection that `loss` belongs to.
    pub(crate) fn beats(&self, node: &NodeId, loss: &Loss) {
        let now = now();
        let mut guard = self.lock();
        if !guard.links.get(node).is_some_and(|l| l.loss.same(loss)) {
            return;
        }
        guard.fleet.at(now);
        let goes_on = guard.fleet.beats(node, now);
        if goes_on {
            guard.call_first(now);
        }
        drop(guard);
        if goes_on {
            tracing::info!(%node, "the node goes on");
            self.0.changed.send_replace(());
        }
    }

    /// The connection that `loss` belongs to has ended.
    pub(crate) fn lost(&self, node: &NodeId, loss: &Loss, cause: &str) {
        let mut guard = self.lock();
        if guard.links.get(node).is_some_and(|l| l.loss.same(loss)) {
            guard.links.remove(node);
            guard.latest.remove(node);
            guard.fleet.lose(node, now());
            guard.call_all();
        }
        drop(guard);
        loss.declare(cause);
        self.0.changed.send_replace(());
    }

    /// Loses nodes as they fall silent. Never ends.
    pub(crate) async fn watch_silence(self) {
        let mut tick = tokio::time::interval(SILENCE / 12);
        loop {
            tick.tick().await;
            let mut guard = self.lock();
            let silent = guard.fleet.lose_silent(now());
            let links: Vec<Link> = silent
                .iter()
                .filter_map(|node| {
                    guard.latest.remove(node);
                    guard.links.remove(node)
                })
                .collect();
            if !silent.is_empty() {
                guard.call_all();
            }
            drop(guard);
            for link in &links {
                link.loss.declare(SILENT);
            }
            if !silent.is_empty() {
                self.0.changed.send_replace(());
            }
        }
    }

    /// What the request is to do now; a node it goes to counts it from here on. Before it is on one for the first time, it
    /// waits in the queue where it waits.
    pub(crate) fn order(&self, attempt: &mut Attempt, turn: &mut Turn) -> Order {
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = now();
        state.fleet.at(now);
        let begun = attempt.has_begun();
        let first = state.queue.first(attempt.model(), now);
        let behind =
            state.queue.waiting_for(attempt.model()).saturating_sub(usize::from(turn.ticket.is_some()));
        attempt.hold_back(first.is_some() && first != turn.ticket, u32::try_from(behind).unwrap_or(u32::MAX));
        let order = state.order(attempt, now);
        match (&order, turn.ticket) {
            (Order::Go(..), Some(ticket)) => {
                turn.ticket = None;
                state.leaves_queue(attempt.model(), ticket, true, now);
            }
            (Order::Queue | Order::Wait(_), None) if !begun => {
                match state.queue.enter(attempt.model(), turn.claim.clone(), now) {
                    Ok(ticket) => {
                        turn.ticket = Some(ticket);
                        state.called.insert(ticket, Arc::clone(&turn.called));
                        if matches!(order, Order::Queue) {
                            // Room may be there already, and the turn this one's.
                            state.call_first(now);
                        }
                    }
                    Err(full) => return Order::Refuse(refusal(full)),
                }
            }
            _ => {}
        }
        order
    }

    /// A request that waited gives its place up.
    pub(crate) fn leaves_queue(&self, model: &str, ticket: Ticket) {
        self.lock().leaves_queue(model, ticket, false, now());
    }

    /// Why nothing more can wait, where that is so.
    pub(crate) fn full(&self) -> Option<Refusal> {
        self.lock().queue.full().map(refusal)
    }

    /// How many requests wait in the queue.
    pub(crate) fn queued(&self) -> usize {
        self.lock().queue.len()
    }

    /// Nodes that serve a model and can move its prefixes.
    pub(crate) fn movers(&self, model: &str) -> Vec<NodeId> {
        let moves = |report: &Report| report.serves(model) && report.can_rank && !report.draining;
        let guard = self.lock();
        let able = guard.fleet.alive().filter(|(_, member)| moves(&member.report));
        able.map(|(node, _)| node.clone()).collect()
    }

    /// The connection to a node.
    pub(crate) fn link(&self, node: &NodeId) -> Option<Link> {
        self.lock().links.get(node).cloned()
    }

    /// A request has left its node.
    pub(crate) fn release(&self, pick: &Pick) {
        let now = now();
        let mut guard = self.lock();
        guard.fleet.at(now);
        guard.fleet.release(pick, now);
        guard.call_first(now);
    }

    /// What it means for a request that something happened on its node.
    pub(crate) fn happened(&self, attempt: &mut Attempt, pick: &mut Pick, happening: Happening) -> Verdict {
        let mut guard = self.lock();
        if happening == Happening::Delta {
            guard.fleet.decodes(pick);
        }
        attempt.on(happening, &guard.fleet, now())
    }

    /// What it means for a request that nothing happened on its node.
    pub(crate) fn watch(&self, attempt: &mut Attempt) -> Watch {
        let now = now();
        let mut guard = self.lock();
        guard.fleet.at(now);
        attempt.watch(&guard.fleet, now)
    }

    /// A request has ended well.
    pub(crate) fn learn(&self, pick: &Pick, finished: &Finished) {
        self.lock().fleet.learn(pick, finished);
    }

    /// A load that `order` asked for has ended.
    pub(crate) fn load_ended(&self, node: &NodeId, model: &str, failure: Option<String>) {
        let mut guard = self.lock();
        guard.fleet.load_ends(node, model, failure, now());
        guard.call_first(now());
        drop(guard);
        self.0.changed.send_replace(());
    }

    /// The replica that `order` asked for has been formed, led by a node, or not.
    pub(crate) fn assembly_ended(&self, model: &str, ended: Result<&NodeId, Failed>) {
        let mut guard = self.lock();
        guard.fleet.assembly_ends(model, ended, now());
        guard.call_first(now());
        drop(guard);
        self.0.changed.send_replace(());
    }

    /// How many ranks each stage of a replica has, where the operator says so.
    pub(crate) fn set_layout(&self, layout: Option<Vec<usize>>) {
        self.lock().fleet.set_layout(layout);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves plain data behind, not a broken invariant.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn order(&mut self, attempt: &mut Attempt, now: Instant) -> Order {
        match attempt.next(&self.fleet, now) {
            Step::Generate(node) => {
                match (self.links.get(&node), self.fleet.pick(&node, (attempt.model(), attempt.ask()), now)) {
                    (Some(link), Some(pick)) => {
                        self.fleet.note(attempt.cuts(), &node);
                        Order::Go(pick, link.clone())
                    }
                    // Links and the fleet change under one lock, so a living member has a link.
                    _ => Order::Wait(Some(now)),
                }
            }
            Step::Load(node) => match self.links.get(&node) {
                Some(link) if self.fleet.load_begins(&node, attempt.model()) => {
                    Order::Load(node, link.clone())
                }
                _ => Order::Wait(None),
            },
            Step::Assemble(assembly) => {
                let link = |rank: &RankPlace| self.links.get(&rank.node).cloned();
                let links: Option<Vec<Link>> = assembly.ranks.iter().map(link).collect();
                match links {
                    Some(links) if self.fleet.assembly_begins(&assembly.model) => {
                        Order::Assemble(assembly, links)
                    }
                    _ => Order::Wait(None),
                }
            }
            Step::Queue => Order::Queue,
            Step::Wait(until) => Order::Wait(until),
            Step::Refuse(refusal) => Order::Refuse(refusal),
        }
    }

    /// Has whoever's turn it may be ask again.
    fn call_first(&self, now: Instant) {
        let firsts = self.queue.models().filter_map(|model| self.queue.first(model, now));
        firsts.filter_map(|ticket| self.called.get(&ticket)).for_each(|called| called.notify_one());
    }

    /// Has everybody who waits ask again.
    fn call_all(&self) {
        self.called.values().for_each(|called| called.notify_one());
    }

    fn leaves_queue(&mut self, model: &str, ticket: Ticket, served: bool, now: Instant) {
        self.called.remove(&ticket);
        self.queue.leave(model, ticket, served, now);
        self.call_first(now);
    }
}

fn refusal(full: Full) -> Refusal {
    Refusal::Full { retry_after: full.seconds(), why: full.why }
}

/// The time, as tests may have paused it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

const SILENT: &str = "the node reported nothing for 3 s";
