//! Prints what a host operation costs beside its kernel: a chain as long as a decode step's,
//! built and evaluated; MLX's own cheapest operation for comparison.

use std::time::Instant;

use mlxcel_mlx_bridge::{Array, Dtype, Result, eval, host_op_single};

const CHAIN: u32 = 400;
const ROUNDS: u32 = 50;

fn main() -> Result<()> {
    let start = Array::from_slice(&[1.0f32], &[1])?;
    measure("host op", &start, |x| {
        host_op_single("add one", &[x], &[1], Dtype::Float32, |inputs, out| {
            out.as_f32_mut()?[0] = inputs[0].as_f32()?[0] + 1.0;
            Ok(())
        })
    })?;
    measure("mlx negative", &start, Array::negative)
}

fn measure(name: &str, start: &Array, node: impl Fn(&Array) -> Result<Array>) -> Result<()> {
    let (mut building, mut evaluating) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let mut x = start.clone();
        for _ in 0..CHAIN {
            x = node(&x)?;
        }
        let built = Instant::now();
        eval(&[&x])?;
        building.push((built - began) / CHAIN);
        evaluating.push(built.elapsed() / CHAIN);
    }
    building.sort();
    evaluating.sort();
    let median = ROUNDS as usize / 2;
    println!(
        "{name}: build {:?}, evaluate {:?} (medians of {ROUNDS} chains of {CHAIN})",
        building[median], evaluating[median]
    );
    Ok(())
}
