//! What the end that measures asks of the other: to spin or to sleep, to check what has arrived, to add.
//!
//! Orders travel as messages of the transport itself, three numbers each.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::executor::block_on;
use mlxcel_transport::collective::{Collective, Element, Group, GroupConfig, Reduction};
use mlxcel_transport::{Access, Channel, Counter, Region, Tag, TransportExt};

use crate::ends::{End, HERE, THERE, pattern, soon};

/// One thing to do.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    /// Drive the transport until the next order, or let it drive itself.
    Spin(bool),
    /// Answer whether these blocks have arrived.
    Check { count: usize, size: usize },
    /// All-reduce so many bytes of ones so many times.
    Sum { size: usize, times: usize },
    /// It is over.
    End,
}

impl Order {
    fn words(self) -> [u64; 3] {
        match self {
            Self::Spin(spin) => [0, u64::from(spin), 0],
            Self::Check { count, size } => [1, count as u64, size as u64],
            Self::Sum { size, times } => [2, size as u64, times as u64],
            Self::End => [3, 0, 0],
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(*bytes.get(8 * at..)?.first_chunk()?));
        let [kind, first, second] = [0, 1, 2].map(|at| word(at).unwrap_or(u64::MAX));
        Ok(match kind {
            0 => Self::Spin(first == 1),
            1 => Self::Check { count: first as usize, size: second as usize },
            2 => Self::Sum { size: first as usize, times: second as usize },
            3 => Self::End,
            other => bail!("the other end gave order {other}"),
        })
    }
}

impl End {
    pub(crate) fn order(&self, order: Order) -> Result<()> {
        let bytes: Vec<u8> = order.words().iter().flat_map(|word| word.to_le_bytes()).collect();
        Ok(block_on(self.transport.send(self.peer, ORDERS, bytes.into(), soon()))?)
    }

    /// The other end's next answer.
    pub(crate) fn answer(&self) -> Result<Bytes> {
        Ok(block_on(self.transport.domain().receive(self.peer, ANSWERS, soon()))?)
    }

    /// The next order, awaited for so long with the calling thread at work.
    fn next_order(&self, spin: Duration) -> Result<Order> {
        loop {
            if let Some(message) = self.transport.domain().try_receive(self.peer, ORDERS) {
                return Order::parse(&message);
            }
            let readable = self.transport.domain().readable(self.peer, ORDERS, soon());
            self.transport.wait_spinning(readable, spin)?;
        }
    }

    fn reply(&self, answer: Vec<u8>) -> Result<()> {
        Ok(block_on(self.transport.send(self.peer, ANSWERS, answer.into(), soon()))?)
    }

    /// The group of both ends.
    pub(crate) fn group(&self) -> Result<Group> {
        let mut ranks = [self.transport.domain().id(), self.peer];
        ranks.sort_unstable();
        Ok(Group::form(self.transport.clone(), &ranks, GroupConfig::new(1))?)
    }
}

/// Sums `data` over both ends.
pub(crate) fn add(group: &mut Group, data: &mut [u8]) -> Result<()> {
    Ok(group.all_reduce(data, Element::F32, Reduction::Sum)?)
}

/// `size` bytes of the number one.
pub(crate) fn ones(size: usize) -> Vec<u8> {
    1f32.to_ne_bytes().repeat(size / 4)
}

/// Does what the other end orders, to the end.
pub(crate) fn obey(end: &End) -> Result<()> {
    let memory = end.memory(THERE, Access::READ_WRITE)?;
    let arrivals = end.transport.domain().expect(TAG, &[end.peer]).context("the tag is free")?;
    end.reply(memory.key().to_bytes())?;
    let mut group = end.group()?;
    let mut spin = Duration::ZERO;
    loop {
        match end.next_order(spin)? {
            Order::Spin(on) => spin = if on { Duration::from_secs(60) } else { Duration::ZERO },
            Order::Check { count, size } => {
                end.reply(vec![u8::from(arrived(&memory, &arrivals, count, size))])?;
            }
            Order::Sum { size, times } => {
                let mut data = ones(size);
                for _ in 0..times {
                    add(&mut group, &mut data)?;
                }
            }
            Order::End => return Ok(()),
        }
    }
}

/// Whether blocks of the other end have been counted and are here, in reverse order.
fn arrived(memory: &Region, arrivals: &Counter, count: usize, size: usize) -> bool {
    arrivals.count() > 0
        && (0..count).all(|block| {
            let mut here = vec![0; size];
            memory.read_at((count - 1 - block) * size, &mut here);
            here == pattern(HERE, block * size, size)
        })
}

/// With what blocks are counted.
pub(crate) const TAG: Tag = Tag::new(1);
const ORDERS: Channel = Channel(0);
/// A key, then whether blocks have arrived.
const ANSWERS: Channel = Channel(1);
