//! Carries one request to nodes and its answer back, retrying as `core::attempt` decides.
//!
//! Owns the calls, not the rules: it waits, sends, and reports what happened. Dropping a `Run`
//! cancels the request on its node. Knows nothing of HTTP.

mod assemble;
mod leg;
mod load;
mod prefill;
mod told;
pub(crate) mod turn;

use std::time::{Duration, Instant};

use mlxcel_protocol::Message;
use mlxcel_protocol::v1::generate_request::Prompt;
use mlxcel_protocol::v1::{ChoiceDelta, Finished, GenerateRequest};
use tokio_util::sync::CancellationToken;

use crate::core::attempt::{Attempt, Verdict, Watch};
use crate::core::cost::Ask;
use crate::core::fleet::NodeId;
use crate::core::prefixes::Cuts;
use crate::core::queue::Claim;
use crate::core::refusal::Refusal;
use crate::metrics::{InFlight, Metrics};
use crate::nodes::roster::{Link, Order, Roster, now};
use leg::Leg;
pub(crate) use prefill::Prefills;
use prefill::{Pending, estimated_tokens};
use told::Told;
use turn::Turn;

/// What requests need of the router.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    pub(crate) roster: Roster,
    pub(crate) metrics: Metrics,
    /// Cancelled when running requests are to end at once.
    pub(crate) stopping: CancellationToken,
    /// How long a request waits, in all, for a node to serve it.
    pub(crate) patience: Duration,
    /// What is known of where prompts are best computed.
    pub(crate) prefills: Prefills,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    /// More output, of some of the choices.
    Output(Vec<ChoiceDelta>),
    /// The end.
    Finished(Finished),
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Run {
    relay: Relay,
    request: GenerateRequest,
    attempt: Attempt,
    leg: Option<Leg>,
    legs: u32,
    /// When to look whether the node goes on.
    look_at: Instant,
    deadline: Option<Deadline>,
    told: Told,
    turn: Turn,
    /// Until the answer begins.
    pending: Option<Pending>,
    /// Where it went and where its prompt was computed, for clients.
    route: Option<String>,
    _in_flight: InFlight,
}

impl Run {
    /// A request that has gone nowhere yet, and may take `timeout` from now on. Its id becomes the wire's.
    pub(crate) fn new(relay: Relay, mut request: GenerateRequest, timeout: Option<Duration>) -> Self {
        let (bytes, cuts) = prompt(&request);
        let ask = Ask { bytes, max_tokens: request.max_tokens, choices: request.choices, had: 0.0 };
        let attempt = Attempt::new(&request.model, relay.patience).asking(ask, cuts);
        let sampling = request.sampling.get_or_insert_default();
        // Whichever node goes on draws as the first would have.
        sampling.seed.get_or_insert_with(rand::random);
        let in_flight = relay.metrics.request_begins();
        let deadline = timeout.map(|timeout| Deadline { timeout, at: now() + timeout });
        let claim = claim(&request, deadline.map(|deadline| deadline.at));
        let turn = Turn::new(relay.roster.clone(), &request.model, claim);
        Self {
            relay,
            request,
            attempt,
            leg: None,
            legs: 0,
            look_at: now(),
            deadline,
            told: Told::default(),
            turn,
            pending: None,
            route: None,
            _in_flight: in_flight,
        }
    }

    /// Which node answers and where the prompt was computed, with the figures that decided it; known once the answer has
    /// begun.
    pub(crate) fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// The answer's next part. After `Finished` or an error nothing follows.
    pub(crate) async fn next(&mut self) -> Result<Piece, Refusal> {
        let stopping = self.relay.stopping.clone();
        tokio::select! {
            biased;
            () = stopping.cancelled() => {
                self.leg = None;
                Err(Refusal::Stopping)
            }
            refusal = passed(self.deadline) => {
                self.leg = None;
                Err(refusal)
            }
            piece = self.advance() => piece,
        }
    }

    async fn advance(&mut self) -> Result<Piece, Refusal> {
        loop {
            if self.leg.is_none() {
                self.leg = Some(self.choose().await?);
            }
            let Some(leg) = self.leg.as_mut() else {
                continue;
            };
            let roster = &self.relay.roster;
            let (verdict, piece) = tokio::select! {
                biased;
                (happening, piece) = leg.next() => {
                    if let Some(Piece::Finished(finished)) = &piece {
                        roster.learn(leg.pick(), finished);
                    }
                    (roster.happened(&mut self.attempt, leg.pick(), happening), piece)
                }
                cause = stalled(roster, &mut self.attempt, &mut self.look_at) => {
                    self.relay.metrics.moved();
                    (Verdict::Retry(cause), None)
                }
            };
            match verdict {
                Verdict::Hold => {}
                Verdict::Forward => {
                    if let Some(piece) = piece.and_then(|piece| self.handed_out(piece)) {
                        return Ok(piece);
                    }
                }
                Verdict::Retry(cause) => {
                    self.leg = None;
                    let request = &self.request.request_id;
                    if self.told.is_empty() {
                        self.relay.metrics.retried();
                        tracing::warn!(%request, %cause, "retrying");
                    } else {
                        self.relay.metrics.resumed();
                        tracing::warn!(%request, %cause, "going on elsewhere");
                    }
                }
                Verdict::Fail(refusal) => {
                    self.leg = None;
                    return Err(refusal);
                }
            }
        }
    }

    /// Notes a part that is handed out; none where all of it has been before.
    fn handed_out(&mut self, piece: Piece) -> Option<Piece> {
        self.pending = None;
        if let (Piece::Finished(finished), Some(leg), 1) = (&piece, &self.leg, self.legs) {
            self.relay.prefills.finished(leg.node(), &self.request.model, finished);
        }
        match piece {
            Piece::Output(deltas) => {
                let deltas = self.told.note(deltas);
                (!deltas.is_empty()).then_some(Piece::Output(deltas))
            }
            finished @ Piece::Finished(_) => Some(finished),
        }
    }

    /// Has the prompt computed where that is quickest, before the request goes to the node that answers.
    async fn prepare(&mut self, node: &NodeId, link: &Link) {
        let Relay { prefills, roster, .. } = &self.relay;
        let left = if self.legs == 1 {
            let route = prefills.prepare(roster, (node, link), &self.request).await;
            self.route = Some(route.told);
            route.left
        } else {
            self.route = Some(format!("node={node}; leg={}", self.legs));
            estimated_tokens(&self.request)
        };
        self.pending = Some(prefills.begins(node, left));
    }

    /// Waits for a node and sends the request there.
    async fn choose(&mut self) -> Result<Leg, Refusal> {
        let mut changes = self.relay.roster.changes();
        loop {
            changes.mark_unchanged();
            match self.relay.roster.order(&mut self.attempt, &mut self.turn) {
                Order::Go(pick, link) => {
                    self.legs += 1;
                    let mut request = self.request.clone();
                    request.resumed = self.told.resumed();
                    if self.legs > 1 {
                        // The same node may be asked again before it has forgotten the last time.
                        request.request_id = format!("{}-{}", request.request_id, self.legs);
                    }
                    if let Some(deadline) = self.deadline {
                        request.deadline_micros = deadline.left_micros(now());
                    }
                    let node = pick.node.clone();
                    let leg = Leg::new(self.relay.roster.clone(), pick, link.clone(), request);
                    self.prepare(&node, &link).await;
                    return Ok(leg);
                }
                Order::Load(node, link) => {
                    let model = self.attempt.model().to_owned();
                    tokio::spawn(load::load(self.relay.roster.clone(), node, link, model));
                }
                Order::Assemble(assembly, links) => {
                    tokio::spawn(assemble::assemble(self.relay.roster.clone(), assembly, links));
                }
                Order::Queue => self.turn.called.notified().await,
                Order::Wait(until) => {
                    tokio::select! {
                        _ = changes.changed() => {}
                        () = sleep_until(until) => {}
                    }
                }
                Order::Refuse(refusal) => return Err(refusal),
            }
        }
    }
}

/// How large what the model reads is, as it is sent, and its cuts. What tokens it makes, the node knows.
fn prompt(request: &GenerateRequest) -> (usize, Cuts) {
    let ids;
    let parts: &[&[u8]] = match &request.prompt {
        Some(Prompt::Chat(chat)) => &[chat.tools_json.as_bytes(), chat.messages_json.as_bytes()],
        Some(Prompt::Text(text)) => &[text.as_bytes()],
        Some(Prompt::Tokens(tokens)) => {
            ids = tokens.ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
            &[&ids]
        }
        None => &[],
    };
    (parts.iter().map(|part| part.len()).sum(), Cuts::new(&request.model, parts))
}

/// What a request asks of the queue. Nobody has counted its tokens yet.
fn claim(request: &GenerateRequest, deadline: Option<Instant>) -> Claim {
    let bytes = request.encoded_len();
    let answer = if request.max_tokens > 0 { request.max_tokens } else { USUAL_ANSWER_TOKENS };
    let answers = u64::from(answer) * u64::from(request.choices.max(1));
    Claim {
        client: request.client.clone(),
        priority: request.priority,
        tokens: (bytes / BYTES_PER_TOKEN) as u64 + answers,
        bytes,
        deadline,
    }
}

/// Returns when the node is to be left although it is not lost; says why.
async fn stalled(roster: &Roster, attempt: &mut Attempt, look_at: &mut Instant) -> String {
    loop {
        tokio::time::sleep_until((*look_at).into()).await;
        match roster.watch(attempt) {
            Watch::Until(until) => *look_at = until,
            Watch::Move(cause) => return cause,
        }
    }
}

/// How long a request may take, and until when that is.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    timeout: Duration,
    at: Instant,
}

impl Deadline {
    /// What is left, and at least something: 0 means no deadline on the wire.
    fn left_micros(self, now: Instant) -> u64 {
        let left = self.at.saturating_duration_since(now);
        u64::try_from(left.as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

/// Returns when a deadline has passed. The node that has the request knows it too; this is for one that waits here,
/// or on a node that does not answer.
async fn passed(deadline: Option<Deadline>) -> Refusal {
    sleep_until(deadline.map(|deadline| deadline.at)).await;
    let timeout = deadline.map_or(0, |deadline| deadline.timeout.as_millis());
    Refusal::DeadlineExceeded(format!("the answer was not complete within the {timeout} ms the request gave"))
}

async fn sleep_until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What an answer without a limit is taken for.
const USUAL_ANSWER_TOKENS: u32 = 512;
const BYTES_PER_TOKEN: usize = 4;
