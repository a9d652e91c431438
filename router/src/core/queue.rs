//! Requests that wait for room on a node, and whose turn it is.
//!
//! A state machine: arrivals, departures and `now` in, ranks and refusals out. Of a model's requests the highest priority goes first,
//! and one that is passed over rises with time; within one, the client that was served least (virtual token counter,
//! Sheng et al., OSDI 2024); then whoever came first. As the engine does it (`schedule`), over all nodes. Bounded in requests and
//! bytes. Knows no nodes: whether there is room, `dispatch` says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Requests, over all models.
    pub(crate) requests: usize,
    /// Requests for one model.
    pub(crate) of_model: usize,
    /// Bytes of all requests.
    pub(crate) bytes: usize,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

/// Who waits, and for how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Whose request it is; the empty name is nobody's.
    pub(crate) client: String,
    pub(crate) priority: i32,
    /// Tokens, as far as can be told: of the prompt and of the answer.
    pub(crate) tokens: u64,
    pub(crate) bytes: usize,
    /// When the answer is of no more use.
    pub(crate) deadline: Option<Instant>,
}

/// Why a request may not wait, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) why: String,
    pub(crate) retry_after: Duration,
}

/// The requests of all models that wait.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: Limits,
    lines: HashMap<String, Line>,
    requests: usize,
    bytes: usize,
    tickets: u64,
}

/// Those of one model.
#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<Ticket, Waiting>,
    /// Tokens that each client with something waiting has been given.
    served: HashMap<String, u64>,
    pace: Pace,
}

#[derive(Debug)]
struct Waiting {
    claim: Claim,
    since: Instant,
}

/// How quickly requests leave a line that is not empty.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    seconds: Option<f64>,
}

impl Queue {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, lines: HashMap::new(), requests: 0, bytes: 0, tickets: 0 }
    }

    /// A request is to wait for room on a node that has `model`.
    ///
    /// # Errors
    /// As much waits as may, or what waits before it takes longer than the request may.
    pub(crate) fn enter(&mut self, model: &str, claim: Claim, now: Instant) -> Result<Ticket, Full> {
        let Limits { requests, of_model, bytes } = self.limits;
        let of_model_now = self.lines.get(model).map_or(0, |line| line.waiting.len());
        let wait = self.expected_wait(model);
        let full = |why: String| Err(Full { why, retry_after: wait });
        if self.requests >= requests {
            return full(format!("{requests} requests wait already"));
        }
        if of_model_now >= of_model {
            return full(format!("{of_model} requests for '{model}' wait already"));
        }
        if self.bytes + claim.bytes > bytes && self.bytes > 0 {
            return full(format!("requests of {bytes} bytes wait already"));
        }
        let paced = self.lines.get(model).is_some_and(|line| line.pace.seconds.is_some());
        if paced && claim.deadline.is_some_and(|deadline| now + wait > deadline) {
            return full(format!("its turn would come in {} s, after the time it was given", seconds(wait)));
        }
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.requests += 1;
        self.bytes += claim.bytes;
        self.lines.entry(model.to_owned()).or_default().enter(ticket, claim, now);
        Ok(ticket)
    }

    /// Whose turn it is, of those that wait for `model`.
    pub(crate) fn first(&self, model: &str, now: Instant) -> Option<Ticket> {
        self.lines.get(model)?.first(now)
    }

    /// Why no request more may wait, of any model, where that is so.
    pub(crate) fn full(&self) -> Option<Full> {
        let Limits { requests, bytes, .. } = self.limits;
        if self.requests < requests && self.bytes < bytes {
            return None;
        }
        let retry_after = self.models().map(|model| self.expected_wait(model)).max().unwrap_or(SHORTEST);
        Some(Full { why: format!("{} requests wait already", self.requests), retry_after })
    }

    /// The models that somebody waits for.
    pub(crate) fn models(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter(|(_, line)| !line.waiting.is_empty()).map(|(model, _)| model.as_str())
    }

    /// How many wait for `model`.
    pub(crate) fn waiting_for(&self, model: &str) -> usize {
        self.lines.get(model).map_or(0, |line| line.waiting.len())
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.requests
    }

    /// A request leaves: to a node where it is `served`, else for good.
    pub(crate) fn leave(&mut self, model: &str, ticket: Ticket, served: bool, now: Instant) {
        let Some(line) = self.lines.get_mut(model) else { return };
        let Some(Waiting { claim, .. }) = line.waiting.remove(&ticket) else { return };
        self.requests -= 1;
        self.bytes -= claim.bytes;
        if served {
            line.pace.step(now);
            *line.served.entry(claim.client.clone()).or_default() += claim.tokens.max(1);
        }
        if line.waiting.is_empty() {
            // Nobody is owed anything, and pauses between bursts say nothing of how fast one is served.
            line.served.clear();
            line.pace.last = None;
            if line.pace.seconds.is_none() {
                // It may be a name that nobody knows.
                self.lines.remove(model);
            }
        } else if line.served.len() > line.waiting.len() * 2 + SPARE_CLIENTS {
            line.forget_absent();
        }
    }

    /// How long a request that enters now waits, at the pace at which others leave.
    fn expected_wait(&self, model: &str) -> Duration {
        let Some(line) = self.lines.get(model) else { return SHORTEST };
        let each = line.pace.seconds.unwrap_or(SHORTEST.as_secs_f64());
        let all = each * (line.waiting.len() + 1) as f64;
        Duration::try_from_secs_f64(all).unwrap_or(LONGEST).clamp(Duration::from_millis(1), LONGEST)
    }
}

impl Line {
    fn enter(&mut self, ticket: Ticket, claim: Claim, now: Instant) {
        let waits = |client: &String| self.waiting.values().any(|it| it.claim.client == *client);
        if !waits(&claim.client) {
            // Whoever was away has saved nothing up.
            let least = self.waiting.values().map(|it| self.given(&it.claim.client)).min();
            let own = self.given(&claim.client).max(least.unwrap_or(0));
            self.served.insert(claim.client.clone(), own);
        }
        self.waiting.insert(ticket, Waiting { claim, since: now });
    }

    fn forget_absent(&mut self) {
        let waiting: HashSet<&String> = self.waiting.values().map(|it| &it.claim.client).collect();
        self.served.retain(|client, _| waiting.contains(client));
    }

    fn first(&self, now: Instant) -> Option<Ticket> {
        let rank = |ticket: &Ticket, it: &Waiting| {
            let risen = now.saturating_duration_since(it.since).as_secs() / AGEING.as_secs();
            let priority = i64::from(it.claim.priority) + i64::try_from(risen).unwrap_or(i64::MAX / 2);
            (std::cmp::Reverse(priority), self.given(&it.claim.client), *ticket)
        };
        self.waiting.iter().min_by_key(|(ticket, it)| rank(ticket, it)).map(|(ticket, _)| *ticket)
    }

    fn given(&self, client: &str) -> u64 {
        self.served.get(client).copied().unwrap_or(0)
    }
}

impl Pace {
    fn step(&mut self, now: Instant) {
        if let Some(last) = self.last {
            let sample = now.saturating_duration_since(last).as_secs_f64();
            self.seconds = Some(self.seconds.map_or(sample, |mean| mean + (sample - mean) * WEIGHT));
        }
        self.last = Some(now);
    }
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Full {
    /// What the header `Retry-After` says: whole seconds, at least one.
    pub(crate) fn seconds(&self) -> u64 {
        seconds(self.retry_after).max(1)
    }
}

/// A priority that is passed over rises by one in this time, as in the engine.
const AGEING: Duration = Duration::from_secs(5);
/// How many clients are remembered that have nothing waiting, beyond as many as have.
const SPARE_CLIENTS: usize = 64;
/// What is said where nothing is known of the pace.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest wait that is told.
const LONGEST: Duration = Duration::from_secs(600);
/// Of the latest departure in the mean.
const WEIGHT: f64 = 0.1;
