//! Whether an answer still comes from the node that it was asked of.
//!
//! A state machine that takes what happens, the fleet and `now`, and says why a silent stream is better continued elsewhere, or
//! when to look again. Silence alone is no reason: a long prompt and a long queue are silent too. A reason is a node or
//! worker that gives no sign of life, one that has no work although it owes an answer, or a stream that waits far longer
//! than everything known of its node explains. Whether there is an elsewhere, `attempt` finds out.

use std::time::{Duration, Instant};

use super::member::{Member, STALL};

/// How often one request leaves a node that is not lost. A request that stalls wherever it goes is slow by itself.
pub(crate) const MOST_MOVES: u32 = 3;

/// A stream is looked at again after this, when something is wrong with its node but nobody else can take it.
pub(crate) const GLANCE: Duration = Duration::from_millis(200);

/// How long a node may owe an answer and report that it has nothing to do. Reports come every second.
const IDLE: Duration = Duration::from_secs(4);

/// The shortest wait for a token that is too long from a node that lives and computes.
const OVERDUE: Duration = Duration::from_secs(30);

/// How many times longer than expected such a wait is.
const FACTOR: u32 = 20;

/// What is known of one request on its node.
#[derive(Debug, Clone)]
pub(crate) struct Watchdog {
    /// When anything was last heard of it; at first, when it was sent.
    heard_at: Instant,
    state: State,
    /// The device that has it, once known.
    device: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Sent; tokenised, perhaps, or its grammar compiled.
    Sent,
    /// The node has it, and computes so many tokens before the first.
    Started(u32),
    /// Tokens come, with gaps of this length lately.
    Streaming(Duration),
}

/// What is to be thought of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Nothing is wrong before then.
    Well(Instant),
    /// Its node does not go on with it; why.
    Stalled(String),
}

impl Watchdog {
    /// A request is sent `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self { heard_at: now, state: State::Sent, device: None }
    }

    /// The node has the request: a prompt of so many tokens, on this device.
    pub(crate) fn started(&mut self, prompt_tokens: u32, device: Option<u32>, now: Instant) {
        (self.heard_at, self.device) = (now, device);
        self.state = State::Started(prompt_tokens);
    }

    /// Output came.
    pub(crate) fn delta(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.heard_at);
        self.state = match self.state {
            // The longest is remembered for some tokens: gaps grow with whatever else the node computes.
            State::Streaming(usual) => State::Streaming(gap.max(usual - usual / 16)),
            State::Sent | State::Started(_) => State::Streaming(Duration::ZERO),
        };
        self.heard_at = now;
    }

    /// How the stream of `model` from `member` is.
    pub(crate) fn judge(&self, member: &Member, model: &str, now: Instant) -> Judgement {
        let silence = now.saturating_duration_since(self.heard_at);
        if silence < STALL {
            return Judgement::Well(self.heard_at + STALL);
        }
        if !member.flows(now) {
            return Judgement::Stalled(format!("no sign of life for {} ms", STALL.as_millis()));
        }
        if !member.report.flows_on(model, self.device) {
            return Judgement::Stalled("its worker is stalled".to_owned());
        }
        let holding = member.report.models.get(model);
        let (running, waiting) = holding.map_or((0, 0), |it| (it.running, it.waiting));
        if self.state != State::Sent && running + waiting == 0 && silence >= IDLE {
            return Judgement::Stalled("it reports that it has nothing to do".to_owned());
        }
        // Who waits for room, or gave it up to others, waits for as long as they take.
        let limit = if waiting > 0 { None } else { self.expected(member, model) };
        match limit.map(|expected| expected.saturating_mul(FACTOR).max(OVERDUE)) {
            Some(limit) if silence >= limit => Judgement::Stalled(format!(
                "nothing came for {} s, {FACTOR} times longer than expected",
                silence.as_secs()
            )),
            _ => Judgement::Well(now + GLANCE),
        }
    }

    /// How long the next token should take; none where nothing is known that would tell.
    fn expected(&self, member: &Member, model: &str) -> Option<Duration> {
        let speed = member.speed(model);
        match self.state {
            State::Sent => None,
            // All that runs beside it may be prompts as long.
            State::Started(tokens) => {
                let beside = member.report.models.get(model).map_or(1, |it| it.running.max(1));
                speed?.prefill(tokens.saturating_mul(beside))
            }
            State::Streaming(gap) => Some(gap.max(speed.and_then(|speed| speed.gap()).unwrap_or_default())),
        }
    }
}
