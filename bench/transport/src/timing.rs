//! How often a case is run, and which of its times counts.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Seconds of the median run of `once`, warmed up and then run for `seconds`.
pub(crate) fn measure(seconds: f64, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    for _ in 0..WARM_UP {
        once()?;
    }
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut times = Vec::new();
    while Instant::now() < end || times.len() < FEWEST {
        times.push(timed(&mut once)?);
    }
    Ok(median(times))
}

/// As [`measure`], as often as the other end was told.
pub(crate) fn measure_counted(count: usize, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let times: Result<Vec<_>> = (0..count).map(|_| timed(&mut once)).collect();
    Ok(median(times?))
}

fn timed(once: &mut impl FnMut() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    once()?;
    Ok(begun.elapsed())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// Runs before any is timed.
pub(crate) const WARM_UP: usize = 5;
/// Runs of the slowest case.
pub(crate) const FEWEST: usize = 9;
