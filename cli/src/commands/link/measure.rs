//! How fast one way is.

use std::time::{Duration, Instant};

use anyhow::Result;
use mlxcel_transport::{Access, Batch, Key, Memory, Tag, Transport, TransportExt};

/// What batches are counted under.
pub(super) const TAG: u64 = 1;
/// Bytes of a large write.
pub(super) const LARGE_BYTES: usize = 16 << 20;
const SMALL_BYTES: u64 = 4096;
/// Large writes on their way at once.
const IN_FLIGHT: usize = 2;
const ROUND_TRIPS: usize = 500;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// From a write of 4 KiB to its acknowledgement, the median.
    pub(super) round_trip: Duration,
    /// Bytes a second, of writes of 16 MiB.
    pub(super) rate: f64,
}

/// Measures for about `time`, on the calling thread.
pub(super) fn measure(transport: &dyn Transport, key: &Key, time: Duration) -> Result<Measured> {
    let source = transport.register(Memory::zeroed(LARGE_BYTES)?, Access::LOCAL)?;
    let small = Batch::single((&source, 0), (key, 0), SMALL_BYTES)?;
    let large = Batch::single((&source, 0), (key, 0), LARGE_BYTES as u64)?;
    let round_trip = round_trip(transport, &small, time / 2)?;
    Ok(Measured { round_trip, rate: rate(transport, &large, time)? })
}

fn round_trip(transport: &dyn Transport, batch: &Batch, time: Duration) -> Result<Duration> {
    let (begun, mut taken) = (Instant::now(), Vec::new());
    while taken.len() < ROUND_TRIPS && (taken.is_empty() || begun.elapsed() < time) {
        let begun = Instant::now();
        transport.wait(transport.write(batch, Tag::new(TAG), begun + PATIENCE))?;
        taken.push(begun.elapsed());
    }
    taken.sort_unstable();
    Ok(taken[taken.len() / 2])
}

fn rate(transport: &dyn Transport, batch: &Batch, time: Duration) -> Result<f64> {
    let begun = Instant::now();
    let (mut flying, mut bytes) = (std::collections::VecDeque::new(), 0);
    while bytes == 0 || begun.elapsed() < time {
        while flying.len() < IN_FLIGHT {
            flying.push_back(transport.write(batch, Tag::new(TAG), Instant::now() + PATIENCE));
        }
        if let Some(op) = flying.pop_front() {
            transport.wait(op)?;
            bytes += LARGE_BYTES;
        }
    }
    let rate = bytes as f64 / begun.elapsed().as_secs_f64();
    flying.into_iter().try_for_each(|op| transport.wait(op))?;
    Ok(rate)
}

/// A slow line takes its time for a large write.
const PATIENCE: Duration = Duration::from_secs(60);
