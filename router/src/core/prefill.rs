//! Whether another node than the one that will answer computes a request's prompt.
//!
//! A cost model over what was measured: how fast each node computes prompts, what waits there, and how fast prefixes
//! travel. Pure; what it is told, `relay` has seen. Where a figure is missing, or the gain is small beside how far off
//! figures are, nothing is moved.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::fleet::NodeId;

/// What was measured, of all nodes and models.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Prompt tokens a second, by node and model.
    rates: HashMap<(NodeId, String), f64>,
    /// Bytes of keys and values that a token has on its way, by model.
    token_bytes: HashMap<String, f64>,
    /// Bytes a second from one node to another.
    links: HashMap<(NodeId, NodeId), f64>,
    /// Tokens of prompts that are being computed, or wait for it, as far as this router has sent them.
    pending: HashMap<NodeId, u64>,
    /// When a move between two nodes failed.
    failures: HashMap<(NodeId, NodeId), Instant>,
}

/// Where else a prompt could be computed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Remote {
    pub(crate) node: NodeId,
    pub(crate) forecast: Forecast,
}

/// How long a prompt takes to be computed on the node that answers, and by way of another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forecast {
    pub(crate) tokens: u64,
    pub(crate) local: Duration,
    pub(crate) remote: Duration,
}

impl Figures {
    /// A node has computed `tokens` of a prompt in this time.
    pub(crate) fn computed(&mut self, node: &NodeId, model: &str, tokens: u64, took: Duration) {
        if tokens < LEAST_MEASURED || took.is_zero() {
            return;
        }
        let rate = tokens as f64 / took.as_secs_f64();
        let known = self.rates.entry((node.clone(), model.to_owned())).or_insert(rate);
        // Waiting for others makes a node look slow, nothing makes it look fast.
        let weight = if rate > *known { 0.5 } else { 0.1 };
        *known += weight * (rate - *known);
    }

    /// A prompt of a model has so many tokens and bytes on its way.
    pub(crate) fn weighed(&mut self, model: &str, tokens: u64, bytes: u64) {
        if tokens > 0 && bytes > 0 {
            self.token_bytes.insert(model.to_owned(), bytes as f64 / tokens as f64);
        }
    }

    /// A prefix has been moved.
    pub(crate) fn moved(&mut self, (from, to): (&NodeId, &NodeId), model: &str, moved: Moved) {
        self.failures.remove(&(from.clone(), to.clone()));
        self.weighed(model, moved.tokens, moved.bytes);
        let whole = moved.bytes as f64 / (moved.computing + moved.rest).as_secs_f64().max(1e-6);
        let tail = moved.tail_bytes as f64 / moved.rest.as_secs_f64().max(1e-6);
        // What went while computing shows no more than that the link is as fast as that.
        let rate = if moved.tail_bytes > LEAST_TAIL_BYTES { tail.max(whole) } else { whole.max(USUAL_LINK) };
        let known = self.links.entry((from.clone(), to.clone())).or_insert(rate);
        *known += 0.5 * (rate - *known);
    }

    /// A move between two nodes failed: it is not tried again for a while.
    pub(crate) fn failed(&mut self, from: &NodeId, to: &NodeId, now: Instant) {
        self.failures.insert((from.clone(), to.clone()), now);
    }

    /// A prompt of so many tokens has been sent to a node.
    pub(crate) fn begins(&mut self, node: &NodeId, tokens: u64) {
        *self.pending.entry(node.clone()).or_default() += tokens;
    }

    /// It has been computed, or the request has ended.
    pub(crate) fn ends(&mut self, node: &NodeId, tokens: u64) {
        if let Some(pending) = self.pending.get_mut(node) {
            *pending = pending.saturating_sub(tokens);
            if *pending == 0 {
                self.pending.remove(node);
            }
        }
    }

    /// Which of `others` would be the quickest to compute a prompt of so many uncached tokens for `answering`, whether
    /// that pays or not; none where nobody could, or too little is known.
    pub(crate) fn choose<'a>(
        &self,
        (model, tokens): (&str, u64),
        answering: &NodeId,
        others: impl Iterator<Item = &'a NodeId>,
        now: Instant,
    ) -> Option<Remote> {
        let usable = others.filter(|node| *node != answering && !self.failed_lately(node, answering, now));
        let forecasts = usable.filter_map(|node| {
            let forecast = self.forecast(model, node, answering, tokens)?;
            Some(Remote { node: node.clone(), forecast })
        });
        forecasts.min_by(|a, b| a.forecast.remote.cmp(&b.forecast.remote).then_with(|| a.node.cmp(&b.node)))
    }

    /// How long it takes on either way; none where a figure is missing.
    pub(crate) fn forecast(&self, model: &str, from: &NodeId, to: &NodeId, tokens: u64) -> Option<Forecast> {
        let seconds = |node: &NodeId| {
            let rate = self.rates.get(&(node.clone(), model.to_owned()))?;
            let pending = self.pending.get(node).copied().unwrap_or(0);
            Some((pending + tokens) as f64 / rate)
        };
        let (local, computing) = (seconds(to)?, seconds(from)?);
        let bytes = tokens as f64 * self.token_bytes.get(model).copied().unwrap_or(USUAL_TOKEN_BYTES);
        let link = self.links.get(&(from.clone(), to.clone())).copied().unwrap_or(USUAL_LINK);
        let moving = bytes / link;
        // Layers travel while the next is computed; the last ones, and taking over, come behind.
        let remote = TALKING + computing.max(moving) + 0.05 * moving + bytes / TAKING_OVER;
        let [local, remote] = [local, remote].map(|it| Duration::from_secs_f64(it.min(MOST_SECONDS)));
        Some(Forecast { tokens, local, remote })
    }

    fn failed_lately(&self, from: &NodeId, to: &NodeId, now: Instant) -> bool {
        let failed = self.failures.get(&(from.clone(), to.clone()));
        failed.is_some_and(|at| now.saturating_duration_since(*at) < FAILURE_PAUSE)
    }
}

/// What a move showed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) tokens: u64,
    pub(crate) bytes: u64,
    /// Time in which the prefix was computed.
    pub(crate) computing: Duration,
    /// From there to the last acknowledgement, and bytes that were acknowledged in it.
    pub(crate) rest: Duration,
    pub(crate) tail_bytes: u64,
}

impl Forecast {
    /// Whether the way by another node is shorter by more than figures are commonly off.
    pub(crate) fn pays(&self) -> bool {
        self.tokens >= LEAST_TOKENS && self.remote.as_secs_f64() < WORTH * self.local.as_secs_f64()
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, local, remote } = self;
        write!(f, "tokens={tokens}; local_ms={}; remote_ms={}", local.as_millis(), remote.as_millis())
    }
}

/// Prompts of fewer tokens are computed where they are answered.
pub(crate) const LEAST_TOKENS: u64 = 256;
/// A remote prefill must take less than this share of the local one.
const WORTH: f64 = 0.7;
/// Fewer say little of a node's speed.
const LEAST_MEASURED: u64 = 64;
const LEAST_TAIL_BYTES: u64 = 1 << 20;
/// Of a link that nothing was moved over yet: a gigabit's.
const USUAL_LINK: f64 = 110e6;
/// Of a model of which nothing was to be moved yet: rather too few, since the answering node says what it is before
/// anything moves.
const USUAL_TOKEN_BYTES: f64 = 65_536.0;
/// Bytes a second that an engine takes over.
const TAKING_OVER: f64 = 1e9;
/// What both nodes and the router say to each other takes.
const TALKING: f64 = 0.02;
const FAILURE_PAUSE: Duration = Duration::from_secs(30);
const MOST_SECONDS: f64 = 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = "m";

    fn node(name: &str) -> NodeId {
        NodeId::new(name)
    }

    /// A slow node and a fast one, by prompt tokens a second.
    fn figures(rates: &[(&str, f64)]) -> Figures {
        let mut figures = Figures::default();
        for (name, rate) in rates {
            figures.computed(&node(name), MODEL, 1000, Duration::from_secs_f64(1000.0 / rate));
        }
        figures.moved(
            (&node("fast"), &node("slow")),
            MODEL,
            Moved {
                tokens: 1000,
                bytes: 46_000_000,
                computing: Duration::from_millis(100),
                rest: Duration::from_millis(10),
                tail_bytes: 0,
            },
        );
        figures
    }

    fn chosen(figures: &Figures, tokens: u64) -> Option<NodeId> {
        let (fast, slow) = (node("fast"), node("slow"));
        let now = Instant::now();
        let best = figures.choose((MODEL, tokens), &slow, [&fast, &slow].into_iter(), now);
        best.filter(|remote| remote.forecast.pays()).map(|remote| remote.node)
    }

    #[test]
    fn a_much_faster_node_computes_long_prompts() {
        let figures = figures(&[("slow", 200.0), ("fast", 2000.0)]);
        assert_eq!(chosen(&figures, 2000), Some(node("fast")));
        assert_eq!(chosen(&figures, 200), None, "short ones are not worth the talk");
    }

    #[test]
    fn a_node_as_fast_computes_nothing_for_others_unless_they_have_much_to_do() {
        let mut figures = figures(&[("slow", 1000.0), ("fast", 1000.0)]);
        assert_eq!(chosen(&figures, 2000), None);
        figures.begins(&node("slow"), 4000);
        assert_eq!(chosen(&figures, 2000), Some(node("fast")));
        figures.begins(&node("fast"), 4000);
        assert_eq!(chosen(&figures, 2000), None);
        figures.ends(&node("fast"), 4000);
        figures.ends(&node("slow"), 4000);
        assert_eq!(chosen(&figures, 2000), None);
    }

    #[test]
    fn nothing_is_moved_over_a_link_that_is_slower_than_computing() {
        let mut figures = figures(&[("slow", 1000.0), ("fast", 10_000.0)]);
        assert_eq!(chosen(&figures, 4000), Some(node("fast")));
        let slow_link = Moved {
            tokens: 1000,
            bytes: 46_000_000,
            computing: Duration::from_millis(100),
            rest: Duration::from_secs(2),
            tail_bytes: 44_000_000,
        };
        (0..10).for_each(|_| figures.moved((&node("fast"), &node("slow")), MODEL, slow_link));
        assert_eq!(chosen(&figures, 4000), None);
    }

    #[test]
    fn nothing_is_moved_where_a_figure_is_missing_or_a_move_has_failed_lately() {
        assert_eq!(chosen(&figures(&[("fast", 2000.0)]), 2000), None);
        assert_eq!(chosen(&figures(&[("slow", 200.0)]), 2000), None);
        let mut figures = figures(&[("slow", 200.0), ("fast", 2000.0)]);
        let now = Instant::now();
        figures.failed(&node("fast"), &node("slow"), now);
        let at = |now| {
            figures.choose((MODEL, 2000), &node("slow"), [&node("fast")].into_iter(), now).map(|it| it.node)
        };
        assert_eq!(at(now), None);
        assert_eq!(at(now + FAILURE_PAUSE), Some(node("fast")));
    }

    #[test]
    fn a_node_that_was_busy_once_is_not_taken_for_slow() {
        let mut figures = figures(&[("slow", 200.0), ("fast", 2000.0)]);
        figures.computed(&node("fast"), MODEL, 1000, Duration::from_secs(10));
        assert_eq!(chosen(&figures, 2000), Some(node("fast")));
        figures.computed(&node("fast"), MODEL, 10, Duration::from_secs(10));
        let forecast = figures.forecast(MODEL, &node("fast"), &node("slow"), 1900).expect("all is known");
        assert_eq!(forecast.local, Duration::from_millis(9500));
        assert!(
            forecast.remote > Duration::from_millis(1000) && forecast.remote < Duration::from_millis(1300)
        );
    }
}
