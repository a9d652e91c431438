//! Whether a worker that is ready lives: it gives signs of life, and its engines' steps come to an end.
//!
//! A state machine: beats and `now` in, a finding out. A stalled worker may go on by itself, so that others merely avoid
//! it; a hung one is given up. How long a step may take follows from what steps took before, so that a slow one is
//! not taken for a hang: a step of few tokens costs at least as much a token as one of many.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mlxcel_protocol::v1::{EngineBeat, WorkerBeat};

/// When a worker is taken for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Stalled: longest silence. Beats come every 150 ms, from a thread that does nothing else.
    pub(crate) silence: Duration,
    /// Stalled: longest step, and longest command, where that is more than `STALL_FACTOR` times what was to be expected.
    pub(crate) step: Duration,
    /// Hung: the same, with `HANG_FACTOR`; a silence of half of it, or a command of twice.
    pub(crate) hang: Duration,
    /// Longest step before anything is known of a model: weights may have to be read, kernels to be compiled. Stalled in
    /// a tenth of it.
    pub(crate) first_step: Duration,
}

/// The usual [`Bounds::hang`].
pub(crate) const HANG_TIMEOUT: Duration = Duration::from_secs(60);

impl Default for Bounds {
    fn default() -> Self {
        Self {
            silence: Duration::from_millis(700),
            step: Duration::from_secs(2),
            hang: HANG_TIMEOUT,
            first_step: Duration::from_secs(600),
        }
    }
}

/// How a worker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It lives, or there is none.
    Well,
    /// It does not go on at the moment; why.
    Stalled(String),
    /// It is not to be expected to go on; why.
    Hung(String),
}

/// One worker's signs of life.
#[derive(Debug)]
pub(crate) struct Pulse {
    bounds: Bounds,
    /// Of a worker that is ready.
    beating: Option<Beating>,
    /// What a token of each model takes, in seconds: the most in recent steps. Outlives the worker.
    token_seconds: BTreeMap<String, f64>,
}

#[derive(Debug)]
struct Beating {
    heard: Instant,
    looked: Instant,
    /// How long the command under way had taken when it was last heard.
    command: Duration,
    engines: Vec<Engine>,
}

#[derive(Debug)]
struct Engine {
    beat: EngineBeat,
    /// When a step last ended, or there was none under way.
    moved: Instant,
}

impl Pulse {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, beating: None, token_seconds: BTreeMap::new() }
    }

    /// A worker is ready.
    pub(crate) fn begins(&mut self, now: Instant) {
        let command = Duration::ZERO;
        self.beating = Some(Beating { heard: now, looked: now, command, engines: Vec::new() });
    }

    /// The worker is gone, or given up.
    pub(crate) fn ends(&mut self) {
        self.beating = None;
    }

    /// The worker gave a sign of life.
    pub(crate) fn beats(&mut self, beat: &WorkerBeat, now: Instant) {
        let Some(beating) = &mut self.beating else { return };
        beating.heard = now;
        beating.command = Duration::from_micros(beat.command_micros);
        let mut before = std::mem::take(&mut beating.engines);
        for beat in &beat.engines {
            let known = before.iter().position(|engine| engine.beat.model == beat.model);
            let mut engine = match known {
                Some(at) => before.swap_remove(at),
                None => Engine { beat: beat.clone(), moved: now },
            };
            if engine.has_moved(beat) {
                if let Some(seconds) = engine.token_seconds(beat, now) {
                    let slowest = self.token_seconds.entry(beat.model.clone()).or_default();
                    *slowest = seconds.max(*slowest * FORGETTING);
                }
                engine.moved = now;
            }
            engine.beat = beat.clone();
            beating.engines.push(engine);
        }
    }

    /// How the worker is. Asked again at [`Pulse::deadline`] at the latest.
    pub(crate) fn judge(&mut self, now: Instant) -> Finding {
        let Some(beating) = &mut self.beating else { return Finding::Well };
        beating.forgive(now);
        let silence = now.saturating_duration_since(beating.heard);
        // What was under way goes on while nothing is heard.
        let commanded = (!beating.command.is_zero()).then_some(beating.command + silence);
        let mut finding = judged(silence, self.bounds.silence, self.bounds.hang / 2, || {
            format!("no sign of life for {} s", tenths(silence))
        });
        if let Some(taken) = commanded {
            let found = judged(taken, self.bounds.step, self.bounds.hang * 2, || {
                format!("a command takes {} s", tenths(taken))
            });
            finding = finding.worse(found);
        }
        for engine in beating.engines.iter().filter(|engine| engine.beat.step_tokens > 0) {
            let taken = now.saturating_duration_since(engine.moved);
            let (stall, hang) = self.bounds.step(self.token_seconds.get(&engine.beat.model), &engine.beat);
            let found = judged(taken, stall, hang, || {
                let EngineBeat { model, step_tokens, .. } = &engine.beat;
                format!("a step of {step_tokens} tokens of {model} takes {} s", tenths(taken))
            });
            finding = finding.worse(found);
        }
        finding
    }

    /// When to judge again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.beating.as_ref().map(|beating| beating.looked + LOOK)
    }
}

impl Bounds {
    /// How long what is under way may take before it is stalled, and before it hangs.
    fn step(&self, token_seconds: Option<&f64>, beat: &EngineBeat) -> (Duration, Duration) {
        let Some(seconds) = token_seconds else { return (self.first_step / 10, self.first_step) };
        let expected = seconds * f64::from(beat.step_tokens);
        let of = |factor: f64| Duration::try_from_secs_f64(expected * factor).unwrap_or(Duration::MAX);
        (self.step.max(of(STALL_FACTOR)), self.hang.max(of(HANG_FACTOR)))
    }
}

impl Finding {
    fn worse(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Hung(_), _) | (_, Self::Well) | (Self::Stalled(_), Self::Stalled(_)) => self,
            _ => other,
        }
    }
}

impl Beating {
    /// Who looks late was not running, and has no right to complain of silence.
    fn forgive(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.looked).saturating_sub(LOOK * 2);
        self.looked = now;
        if !late.is_zero() {
            self.heard = (self.heard + late).min(now);
            for engine in &mut self.engines {
                engine.moved = (engine.moved + late).min(now);
            }
        }
    }
}

impl Engine {
    fn has_moved(&self, beat: &EngineBeat) -> bool {
        beat.steps != self.beat.steps || self.beat.step_tokens == 0 || beat.step_tokens == 0
    }

    /// What a token took, of steps that were under way all the time.
    fn token_seconds(&self, beat: &EngineBeat, now: Instant) -> Option<f64> {
        let tokens = beat.tokens.checked_sub(self.beat.tokens).filter(|tokens| *tokens > 0)?;
        let busy = self.beat.step_tokens > 0;
        busy.then(|| now.saturating_duration_since(self.moved).as_secs_f64() / tokens as f64)
    }
}

fn judged(taken: Duration, stall: Duration, hang: Duration, why: impl Fn() -> String) -> Finding {
    match taken {
        taken if taken >= hang => Finding::Hung(why()),
        taken if taken >= stall => Finding::Stalled(why()),
        _ => Finding::Well,
    }
}

fn tenths(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

/// How often a worker is looked at.
const LOOK: Duration = Duration::from_millis(150);
/// How much longer than expected a step takes that is stalled, or hangs. Steps differ by what they attend to, and machines
/// by what else they do.
const STALL_FACTOR: f64 = 8.0;
const HANG_FACTOR: f64 = 20.0;
/// What is left of a slow step with each beat after it.
const FORGETTING: f64 = 0.98;

#[cfg(test)]
mod tests;
