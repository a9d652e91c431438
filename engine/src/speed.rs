//! How fast a device reads its memory and computes, measured in a fraction of a second: what a plan is made of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mlxcel_kernels::{Floats, Weight, linear, pool};
use mlxcel_mlx_bridge::{Array, Dtype, Result, eval};

use crate::device::Device;

/// What a device does in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Bytes that it reads from its memory.
    pub bandwidth: f64,
    /// Multiplications and additions, of f32 on a CPU and of bf16 on a GPU.
    pub operations: f64,
}

impl Device {
    /// Measures the device. Nothing else should run on it meanwhile.
    ///
    /// # Errors
    /// When MLX refuses.
    pub fn speed(&self) -> Result<Speed> {
        if self.has_wide_steps() {
            self.make_default()?;
            return Ok(Speed { bandwidth: gpu_bandwidth()?, operations: gpu_operations()? });
        }
        Ok(Speed { bandwidth: cpu_bandwidth(), operations: cpu_operations() })
    }
}

/// The best of a few runs, the first of which warms up.
fn fastest<E>(mut run: impl FnMut() -> std::result::Result<(), E>) -> std::result::Result<Duration, E> {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let begun = Instant::now();
        run()?;
        best = best.min(begun.elapsed());
    }
    Ok(best)
}

fn cpu_bandwidth() -> f64 {
    let words = vec![1_u64; CPU_BYTES / 8];
    let sum = AtomicU64::new(0);
    let parts = words.chunks(CPU_BYTES / 8 / 64).collect::<Vec<_>>();
    let read = |part: usize| {
        let part = parts[part].iter().fold(0_u64, |sum, word| sum.wrapping_add(*word));
        sum.fetch_add(part, Ordering::Relaxed);
    };
    let took = fastest(|| {
        pool().parallel_for(parts.len(), read);
        std::hint::black_box(&sum);
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(took) = took;
    CPU_BYTES as f64 / took.as_secs_f64()
}

fn cpu_operations() -> f64 {
    let (rows, width) = (256, 1024);
    let (x, weight) = (vec![0.5_f32; rows * width], vec![0.25_f32; width * width]);
    let mut out = vec![0.0_f32; rows * width];
    let weight = Weight::Dense(Floats::F32(&weight));
    let took = fastest(|| linear(&x, rows, width, &weight, width, None, &mut out));
    // The sizes agree.
    took.map_or(0.0, |took| 2.0 * (rows * width * width) as f64 / took.as_secs_f64())
}

fn gpu_bandwidth() -> Result<f64> {
    let x = Array::zeros(&[GPU_ELEMENTS], Dtype::Float32)?;
    eval(&[&x])?;
    let took = fastest(|| eval(&[&x.multiply_scalar(2.0)?]))?;
    // What is read is written, too.
    Ok(2.0 * 4.0 * f64::from(GPU_ELEMENTS) / took.as_secs_f64())
}

fn gpu_operations() -> Result<f64> {
    let x = Array::zeros(&[GPU_WIDTH, GPU_WIDTH], Dtype::Bfloat16)?;
    eval(&[&x])?;
    let took = fastest(|| eval(&[&x.matmul(&x)?]))?;
    Ok(2.0 * f64::from(GPU_WIDTH).powi(3) / took.as_secs_f64())
}

const RUNS: usize = 4;
/// More than caches hold.
const CPU_BYTES: usize = 96 << 20;
const GPU_ELEMENTS: i32 = 64 << 20;
const GPU_WIDTH: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DeviceChoice;

    #[test]
    fn a_cpu_is_measured_within_what_cpus_can_do() {
        let device = Device::choose(DeviceChoice::Cpu).expect("every host has a CPU");
        let speed = device.speed().expect("nothing of MLX is needed");
        assert!((1e8..1e13).contains(&speed.bandwidth), "{speed:?}");
        assert!((1e8..1e14).contains(&speed.operations), "{speed:?}");
    }
}
