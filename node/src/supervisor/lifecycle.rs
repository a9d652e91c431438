//! When a worker process is started, given up on and started again.
//!
//! A state machine: what happened and `now` in, what to do out. Knows nothing of processes or
//! clocks; `slot` owns both.

use std::time::{Duration, Instant};

use mlxcel_protocol::v1::WorkerHealth;

/// How patient the supervisor is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Wait after the first crash; doubles with every further one.
    pub(crate) first_wait: Duration,
    /// Longest wait.
    pub(crate) longest_wait: Duration,
    /// A worker that was ready this long counts as healthy: its next crash is a first one.
    pub(crate) stable_after: Duration,
    /// Longest time from start to ready.
    pub(crate) start: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(30),
            stable_after: Duration::from_secs(60),
            start: Duration::from_secs(120),
        }
    }
}

/// What the shell must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Spawn,
    /// Kill the process; report it with `gone` when it is.
    Kill {
        why: String,
    },
}

/// The life of one device's worker.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    patience: Patience,
    phase: Phase,
    restarts: u32,
    /// Crashes since the last stable run.
    crashes: u32,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting {
        until: Instant,
    },
    Starting {
        deadline: Instant,
    },
    Ready {
        since: Instant,
    },
    /// Killed for not becoming ready.
    Killed,
}

impl Lifecycle {
    /// A worker that is due to start `now`.
    pub(crate) fn new(patience: Patience, now: Instant) -> Self {
        Self {
            patience,
            phase: Phase::Waiting { until: now },
            restarts: 0,
            crashes: 0,
            reason: String::new(),
        }
    }

    /// What is due `now`, if anything. Call again at [`Lifecycle::deadline`].
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Waiting { until } if until <= now => {
                self.phase = Phase::Starting { deadline: now + self.patience.start };
                Some(Action::Spawn)
            }
            Phase::Starting { deadline } if deadline <= now => {
                self.phase = Phase::Killed;
                let seconds = self.patience.start.as_secs();
                Some(Action::Kill { why: format!("was not ready after {seconds} s") })
            }
            _ => None,
        }
    }

    /// When something is next due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Starting { deadline } => Some(deadline),
            Phase::Ready { .. } | Phase::Killed => None,
        }
    }

    /// The worker said that it is ready.
    pub(crate) fn ready(&mut self, now: Instant) {
        if let Phase::Starting { .. } = self.phase {
            self.phase = Phase::Ready { since: now };
            self.reason.clear();
        }
    }

    /// The process ended, or could not be started.
    pub(crate) fn gone(&mut self, reason: String, now: Instant) {
        if let Phase::Ready { since } = self.phase
            && now.duration_since(since) >= self.patience.stable_after
        {
            self.crashes = 0;
        }
        let doubled = self.patience.first_wait.saturating_mul(1 << self.crashes.min(20));
        self.phase = Phase::Waiting { until: now + doubled.min(self.patience.longest_wait) };
        self.crashes += 1;
        self.restarts += 1;
        self.reason = reason;
    }

    pub(crate) fn health(&self) -> WorkerHealth {
        match self.phase {
            Phase::Ready { .. } => WorkerHealth::Ready,
            Phase::Waiting { .. } if self.restarts > 0 => WorkerHealth::Restarting,
            Phase::Waiting { .. } | Phase::Starting { .. } | Phase::Killed => WorkerHealth::Starting,
        }
    }

    /// How often the process has ended and been started again.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Why the worker is not ready; empty when it is, or has not failed yet.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        first_wait: Duration::from_millis(100),
        longest_wait: Duration::from_secs(1),
        stable_after: Duration::from_secs(60),
        start: Duration::from_secs(10),
    };

    fn ready_at(now: Instant) -> Lifecycle {
        let mut life = Lifecycle::new(PATIENCE, now);
        assert_eq!(life.poll(now), Some(Action::Spawn));
        life.ready(now);
        life
    }

    /// The wait before each of `crashes` restarts, every run lasting `run`.
    fn waits(crashes: usize, run: Duration) -> Vec<Duration> {
        let mut now = Instant::now();
        let mut life = ready_at(now);
        (0..crashes)
            .map(|_| {
                now += run;
                life.gone("crashed".into(), now);
                let wait = life.deadline().expect("due") - now;
                now += wait;
                assert_eq!(life.poll(now), Some(Action::Spawn));
                life.ready(now);
                wait
            })
            .collect()
    }

    #[test]
    fn a_worker_starts_at_once_and_then_is_ready() {
        let now = Instant::now();
        let mut life = Lifecycle::new(PATIENCE, now);
        assert_eq!(life.health(), WorkerHealth::Starting);
        assert_eq!(life.poll(now), Some(Action::Spawn));
        assert_eq!(life.poll(now), None);
        life.ready(now);
        assert_eq!(life.health(), WorkerHealth::Ready);
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits = waits(6, Duration::from_secs(1));
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis));
    }

    #[test]
    fn a_stable_run_makes_the_next_crash_a_first_one() {
        assert_eq!(waits(3, PATIENCE.stable_after), [PATIENCE.first_wait; 3]);
    }

    #[test]
    fn a_crash_is_reported_until_the_worker_is_ready_again() {
        let now = Instant::now();
        let mut life = ready_at(now);
        life.gone("worker killed by signal 9".into(), now);
        assert_eq!((life.health(), life.restarts()), (WorkerHealth::Restarting, 1));
        assert_eq!(life.reason(), "worker killed by signal 9");
        let due = life.deadline().expect("due");
        assert_eq!(life.poll(due - Duration::from_millis(1)), None);
        assert_eq!(life.poll(due), Some(Action::Spawn));
        assert_eq!(life.reason(), "worker killed by signal 9");
        life.ready(due);
        assert_eq!(life.reason(), "");
    }

    #[test]
    fn a_worker_that_never_becomes_ready_is_killed_once() {
        let now = Instant::now();
        let mut life = Lifecycle::new(PATIENCE, now);
        life.poll(now);
        let late = now + PATIENCE.start;
        let kill = Action::Kill { why: "was not ready after 10 s".into() };
        assert_eq!(life.poll(late), Some(kill));
        assert_eq!(life.poll(late), None);
        life.ready(late);
        assert_eq!(life.health(), WorkerHealth::Starting);
    }
}
