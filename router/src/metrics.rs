//! The router's numbers, in Prometheus' text format.
//!
//! Its own recorder, not a process-wide one, so that several routers in one process stay apart.
//! Decides nothing; whoever does something says so here.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusRecorder};

/// The router's numbers. Clones count together.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    recorder: PrometheusRecorder,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Counts a request as in flight while it lives.
#[derive(Debug)]
pub(crate) struct InFlight(Metrics);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.gauge(IN_FLIGHT, vec![]).decrement(1.0);
    }
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new().set_buckets(&BUCKETS)?.build_recorder();
        for (name, what) in COUNTERS {
            recorder.describe_counter((*name).into(), None, (*what).into());
        }
        for (name, what) in GAUGES {
            recorder.describe_gauge((*name).into(), None, (*what).into());
        }
        let what = "From a request's arrival to its first token";
        recorder.describe_histogram(TTFT.into(), Some(Unit::Seconds), what.into());
        let metrics = Self(Arc::new(Inner { recorder }));
        // Present from the start, so that a rate over them has a zero to begin with.
        metrics.gauge(IN_FLIGHT, vec![]).set(0.0);
        metrics.counter(RETRIES, vec![]).absolute(0);
        metrics.counter(RESUMES, vec![]).absolute(0);
        metrics.counter(MOVES, vec![]).absolute(0);
        Ok(metrics)
    }

    /// Everything, as Prometheus reads it.
    pub(crate) fn render(&self) -> String {
        self.0.recorder.handle().render()
    }

    /// Folds samples together; without it they pile up while nobody reads.
    pub(crate) fn upkeep(&self) {
        self.0.recorder.handle().run_upkeep();
    }

    pub(crate) fn request_begins(&self) -> InFlight {
        self.gauge(IN_FLIGHT, vec![]).increment(1.0);
        InFlight(self.clone())
    }

    /// A request was answered, or its answer began, with this status.
    pub(crate) fn answered(&self, endpoint: &'static str, status: u16) {
        let labels =
            vec![Label::from_static_parts("endpoint", endpoint), Label::new("status", status.to_string())];
        self.counter(REQUESTS, labels).increment(1);
    }

    /// A streamed answer ended with an error.
    pub(crate) fn broke_off(&self) {
        self.counter(BROKEN, vec![]).increment(1);
    }

    pub(crate) fn retried(&self) {
        self.counter(RETRIES, vec![]).increment(1);
    }

    /// An answer goes on elsewhere, behind what had been told.
    pub(crate) fn resumed(&self) {
        self.counter(RESUMES, vec![]).increment(1);
    }

    /// A request left a node that was stalled.
    pub(crate) fn moved(&self) {
        self.counter(MOVES, vec![]).increment(1);
    }

    pub(crate) fn first_token(&self, model: &str, after: Duration) {
        self.histogram(TTFT, vec![Label::new("model", model.to_owned())]).record(after.as_secs_f64());
    }

    pub(crate) fn tokens(&self, model: &str, prompt: u32, completion: u32) {
        let of = |kind| vec![Label::new("model", model.to_owned()), Label::from_static_parts("kind", kind)];
        self.counter(TOKENS, of("prompt")).increment(prompt.into());
        self.counter(TOKENS, of("completion")).increment(completion.into());
    }

    /// How many requests wait for room on a node now.
    pub(crate) fn queued(&self, requests: usize) {
        self.gauge(QUEUED, vec![]).set(requests as f64);
    }

    /// How many nodes there are now.
    pub(crate) fn nodes(&self, connected: usize, unreachable: usize) {
        for (state, count) in [("connected", connected), ("unreachable", unreachable)] {
            let labels = vec![Label::from_static_parts("state", state)];
            self.gauge(NODES, labels).set(count as f64);
        }
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.0.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.0.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.0.recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
    }
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

const REQUESTS: &str = "mlxcel_requests_total";
const BROKEN: &str = "mlxcel_streams_broken_total";
const TOKENS: &str = "mlxcel_tokens_total";
const RETRIES: &str = "mlxcel_retries_total";
const RESUMES: &str = "mlxcel_resumes_total";
const MOVES: &str = "mlxcel_moves_total";
const TTFT: &str = "mlxcel_time_to_first_token_seconds";
const IN_FLIGHT: &str = "mlxcel_requests_in_flight";
const QUEUED: &str = "mlxcel_requests_queued";
const NODES: &str = "mlxcel_nodes";

const COUNTERS: &[(&str, &str)] = &[
    (REQUESTS, "Requests answered, by endpoint and HTTP status"),
    (BROKEN, "Streamed answers that ended with an error"),
    (TOKENS, "Tokens processed, by model and kind (prompt or completion)"),
    (RETRIES, "Requests sent again because a node could not serve them"),
    (
        MOVES,
        "Requests that left a stalled node for another, before it was lost; each is a retry or a resume too",
    ),
    (RESUMES, "Answers that went on elsewhere because a node did not bring them to an end"),
];
const GAUGES: &[(&str, &str)] = &[
    (IN_FLIGHT, "Requests being served"),
    (QUEUED, "Requests that wait in the router for room on a node"),
    (NODES, "Nodes seen, by whether the router is connected to them"),
];

/// Seconds; a cached short prompt on a GPU to a long one on a CPU.
const BUCKETS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
