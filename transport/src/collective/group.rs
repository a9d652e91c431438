//! The group's operations: which of them are one exchange, and what goes around the ring.

use std::sync::Arc;
use std::time::Instant;

use super::exchange::Exchange;
use super::lane::{Incoming, Outgoing};
use super::ring::{Route, travel};
use super::slots::EXCHANGE_BYTES;
use super::waiting::Patience;
use super::{Collective, CollectiveError, Element, GroupConfig, Reduction};
use crate::contract::{PeerId, Transport};

/// A group of ranks over a transport. Made by [`Group::form`].
pub struct Group {
    transport: Arc<dyn Transport>,
    rank: usize,
    ranks: Arc<[PeerId]>,
    config: GroupConfig,
    exchange: Exchange,
    /// From the left neighbour and to the right one, unless this rank is alone.
    lanes: Option<(Incoming, Outgoing)>,
    scratch: Vec<u8>,
    broken: bool,
}

impl Group {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        (rank, ranks): (usize, &[PeerId]),
        config: GroupConfig,
        exchange: Exchange,
        lanes: Option<(Incoming, Outgoing)>,
    ) -> Self {
        Self {
            transport,
            rank,
            ranks: ranks.into(),
            config,
            exchange,
            lanes,
            scratch: Vec::new(),
            broken: false,
        }
    }

    /// What the group runs over.
    #[must_use]
    pub const fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Waits until every rank has called this.
    ///
    /// # Errors
    /// As [`Collective::all_reduce`].
    pub fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.attempt(|group, patience| group.exchange.round(&[0], |_| 0..1, patience, |_, _| {}))
    }

    /// Runs an operation, unless one has failed before: then the ranks no longer agree on which is next.
    fn attempt(
        &mut self,
        operation: impl FnOnce(&mut Self, &Patience<'_>) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        if self.broken {
            return Err(CollectiveError::Broken);
        }
        let (transport, ranks) = (Arc::clone(&self.transport), Arc::clone(&self.ranks));
        let deadline = Instant::now() + self.config.timeout;
        let patience = Patience { transport: &*transport, spin: self.config.spin, deadline, ranks: &ranks };
        let result = operation(self, &patience);
        self.broken = result.is_err();
        result
    }

    fn travel(
        &mut self,
        route: &Route,
        data: &mut [u8],
        how: (Element, Reduction),
        patience: &Patience<'_>,
    ) -> Result<(), CollectiveError> {
        let Some((incoming, outgoing)) = &mut self.lanes else { return Ok(()) };
        travel(route, data, (incoming, outgoing), how, patience)
    }

    /// A route all around, of `steps` steps, from this rank's chunk on.
    fn around(&self, steps: usize, reduced: usize, bytes: usize, element: usize) -> Route {
        let (chunks, first) = (self.size(), self.rank);
        Route { chunks, first, sends: steps, receives: steps, reduced, forwards: false, bytes, element }
    }
}

impl Collective for Group {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.ranks.len()
    }

    fn all_reduce(
        &mut self,
        data: &mut [u8],
        element: Element,
        reduction: Reduction,
    ) -> Result<(), CollectiveError> {
        check_whole(data.len(), element)?;
        if data.is_empty() || self.size() == 1 {
            return Ok(());
        }
        self.attempt(|group, patience| {
            if data.len() <= EXCHANGE_BYTES {
                return group.all_reduce_at_once(data, element, reduction, patience);
            }
            let steps = 2 * (group.size() - 1);
            let route = group.around(steps, group.size() - 1, data.len(), element.bytes());
            group.travel(&route, data, (element, reduction), patience)
        })
    }

    fn all_gather(&mut self, mine: &[u8], all: &mut [u8]) -> Result<(), CollectiveError> {
        check_lengths(self.size(), mine.len(), all.len())?;
        let len = mine.len();
        all[self.rank * len..][..len].copy_from_slice(mine);
        if mine.is_empty() || self.size() == 1 {
            return Ok(());
        }
        self.attempt(|group, patience| {
            if len <= EXCHANGE_BYTES {
                return group.exchange.round(
                    mine,
                    |_| 0..len,
                    patience,
                    |rank, bytes| {
                        all[rank * len..][..len].copy_from_slice(bytes);
                    },
                );
            }
            // Chunks are the ranks' parts, whatever elements they are of.
            let route = group.around(group.size() - 1, 0, all.len(), 1);
            group.travel(&route, all, UNREDUCED, patience)
        })
    }

    fn reduce_scatter(
        &mut self,
        all: &[u8],
        mine: &mut [u8],
        element: Element,
        reduction: Reduction,
    ) -> Result<(), CollectiveError> {
        check_whole(mine.len(), element)?;
        check_lengths(self.size(), mine.len(), all.len())?;
        let (len, rank) = (mine.len(), self.rank);
        if mine.is_empty() || self.size() == 1 {
            mine.copy_from_slice(all);
            return Ok(());
        }
        self.attempt(|group, patience| {
            if all.len() <= EXCHANGE_BYTES {
                let part = |rank: usize| rank * len..(rank + 1) * len;
                return group.exchange.round(all, part, patience, |from, bytes| {
                    if from == 0 {
                        mine.copy_from_slice(bytes)
                    } else {
                        element.reduce(reduction, mine, bytes)
                    }
                });
            }
            let mut scratch = std::mem::take(&mut group.scratch);
            scratch.clear();
            scratch.extend_from_slice(all);
            let mut route = group.around(group.size() - 1, group.size() - 1, all.len(), element.bytes());
            // One chunk on, so that the one this rank receives last, reduced over all, is its own.
            route.first = (rank + group.size() - 1) % group.size();
            let result = group.travel(&route, &mut scratch, (element, reduction), patience);
            mine.copy_from_slice(&scratch[rank * len..][..len]);
            group.scratch = scratch;
            result
        })
    }

    fn broadcast(&mut self, root: usize, data: &mut [u8]) -> Result<(), CollectiveError> {
        if root >= self.size() {
            return Err(CollectiveError::NoSuchRank { rank: root, size: self.size() });
        }
        if data.is_empty() || self.size() == 1 {
            return Ok(());
        }
        let from_root = (self.rank + self.size() - root) % self.size();
        let (sends, receives) = (usize::from(from_root + 1 < self.size()), usize::from(from_root > 0));
        let bytes = data.len();
        let route = Route {
            chunks: 1,
            first: 0,
            sends,
            receives,
            reduced: 0,
            forwards: receives > 0,
            bytes,
            element: 1,
        };
        self.attempt(|group, patience| group.travel(&route, data, UNREDUCED, patience))
    }
}

impl Group {
    fn all_reduce_at_once(
        &mut self,
        data: &mut [u8],
        element: Element,
        reduction: Reduction,
        patience: &Patience<'_>,
    ) -> Result<(), CollectiveError> {
        let scratch = &mut self.scratch;
        scratch.clear();
        let len = data.len();
        self.exchange.round(
            data,
            |_| 0..len,
            patience,
            |rank, bytes| {
                if rank == 0 {
                    scratch.extend_from_slice(bytes)
                } else {
                    element.reduce(reduction, scratch, bytes)
                }
            },
        )?;
        data.copy_from_slice(&self.scratch);
        Ok(())
    }
}

fn check_whole(bytes: usize, element: Element) -> Result<(), CollectiveError> {
    let element = element.bytes();
    if bytes.is_multiple_of(element) { Ok(()) } else { Err(CollectiveError::Ragged { bytes, element }) }
}

fn check_lengths(size: usize, mine: usize, all: usize) -> Result<(), CollectiveError> {
    if size * mine == all { Ok(()) } else { Err(CollectiveError::Lengths { size, mine, all }) }
}

/// Nothing is reduced where all chunks are replaced.
const UNREDUCED: (Element, Reduction) = (Element::F32, Reduction::Sum);
