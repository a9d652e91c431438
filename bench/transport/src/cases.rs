//! The cases: blocks written and read, a small write with its acknowledgement, sums.
//!
//! Blocks lie in reverse order at the other end, as the pages of a cache lie anywhere: nobody can merge them. The names
//! are those of `blocks.py`, which the sides in Python share.

use std::time::Duration;

use anyhow::{Result, ensure};
use mlxcel_transport::collective::Group;
use mlxcel_transport::{Access, Batch, BatchBuilder, Key, Region, TransportExt};
use serde_json::json;

use crate::ends::{End, HALF, HERE, THERE, pattern, soon};
use crate::orders::{Order, TAG, add, ones};
use crate::timing::{FEWEST, WARM_UP, measure, measure_counted};

/// Runs all cases.
pub(crate) fn run(end: &End, seconds: f64) -> Result<()> {
    let memory = end.memory(HERE, Access::LOCAL)?;
    let key = Key::from_bytes(&end.answer()?)?;
    let mut group = end.group()?;
    let blocks = Blocks { end, memory, key, seconds };
    end.order(Order::Spin(true))?;
    tell("write 16 x 1 MiB", blocks.write(16, 1 << 20)?);
    tell("write 128 x 64 KiB", blocks.write(128, 64 << 10)?);
    tell("read 16 x 1 MiB", blocks.read(16, 1 << 20)?);
    tell("write 4 KiB, acknowledged", blocks.write(1, 4 << 10)?);
    end.order(Order::Spin(false))?;
    for size in [4 << 10, 64 << 10, 1 << 20, 64 << 20] {
        tell(&format!("all-reduce {} KiB", size >> 10), sum(end, &mut group, size, seconds)?);
    }
    end.order(Order::End)
}

struct Blocks<'a> {
    end: &'a End,
    memory: Region,
    key: Key,
    seconds: f64,
}

impl Blocks<'_> {
    fn batch(&self, half: usize, count: usize, size: usize) -> Result<Batch> {
        let mut batch = BatchBuilder::default();
        let pair = batch.pair(&self.memory, &self.key);
        let places = (0..count).map(|block| (half + block * size, half + (count - 1 - block) * size));
        batch.pages(pair, places.map(|(here, there)| (here as u64, there as u64)), size as u64);
        Ok(batch.build()?)
    }

    fn write(&self, count: usize, size: usize) -> Result<f64> {
        let batch = self.batch(0, count, size)?;
        let transport = &self.end.transport;
        let took = measure(self.seconds, || {
            Ok(transport.wait_spinning(transport.write(&batch, TAG, soon()), SPIN)?)
        })?;
        self.end.order(Order::Check { count, size })?;
        ensure!(self.end.answer()?[..] == [1], "{count} blocks of {size} bytes arrived as other bytes");
        Ok(took)
    }

    fn read(&self, count: usize, size: usize) -> Result<f64> {
        let batch = self.batch(HALF, count, size)?;
        let transport = &self.end.transport;
        let took =
            measure(self.seconds, || Ok(transport.wait_spinning(transport.read(&batch, soon()), SPIN)?))?;
        for block in 0..count {
            let mut here = vec![0; size];
            self.memory.read_at(HALF + block * size, &mut here);
            let there = pattern(THERE, HALF + (count - 1 - block) * size, size);
            ensure!(here == there, "block {block} was read as other bytes");
        }
        Ok(took)
    }
}

/// Seconds of an all-reduce of both ends' ones. Sums of sums end at infinity, which is as fast as any number.
fn sum(end: &End, group: &mut Group, size: usize, seconds: f64) -> Result<f64> {
    let mut data = ones(size);
    end.order(Order::Sum { size, times: 1 })?;
    add(group, &mut data)?;
    ensure!(data == 2f32.to_ne_bytes().repeat(size / 4), "{size} bytes were added wrongly");
    let mut times = WARM_UP + FEWEST;
    end.order(Order::Sum { size, times })?;
    let guess = measure_counted(times, || add(group, &mut data))?;
    times = ((seconds / guess) as usize).clamp(FEWEST, MOST);
    end.order(Order::Sum { size, times })?;
    measure_counted(times, || add(group, &mut data))
}

fn tell(case: &str, seconds: f64) {
    println!("{}", json!({"case": case, "seconds": seconds}));
}

/// For ever, as far as a measurement goes: both ends spin, as NIXL's do.
const SPIN: Duration = Duration::from_secs(30);
/// Most sums of a size.
const MOST: usize = 50_000;
