//! `memory-bandwidth`: how fast all threads together read memory, as one JSON line.
//!
//! The floor under a decode step: each token reads every weight once. The buffer is far larger than the caches, and
//! the fastest of some passes is printed, as nothing makes memory faster than it is.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use serde_json::json;

fn main() {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Written, not only reserved: pages never written are one page of zeros.
    let buffer: Vec<u64> = (0..BYTES as u64 / 8).collect();
    let best = (0..PASSES).map(|_| pass(&buffer, threads)).fold(f64::INFINITY, f64::min);
    println!("{}", json!({"case": "bandwidth", "threads": threads, "bytes_per_second": BYTES as f64 / best}));
}

/// Seconds for all threads to read the buffer, each its share.
fn pass(buffer: &[u64], threads: usize) -> f64 {
    let begun = Instant::now();
    thread::scope(|scope| {
        for part in buffer.chunks(buffer.len().div_ceil(threads)) {
            scope.spawn(|| black_box(sum(part)));
        }
    });
    begun.elapsed().as_secs_f64()
}

/// Eight sums side by side, so that no addition waits for the one before it.
fn sum(part: &[u64]) -> [u64; 8] {
    let mut sums = [0u64; 8];
    for line in part.chunks_exact(8) {
        for (sum, value) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(*value);
        }
    }
    sums
}

/// Larger than the third-level cache of any server of today.
const BYTES: usize = 2 << 30;
const PASSES: usize = 5;
