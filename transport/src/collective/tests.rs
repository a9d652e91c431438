//! Ranks on threads over the in-process transport: every operation beside what it should give.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::inprocess::Network;
use crate::{PeerId, Transport};

/// Runs `work` on a thread for each rank of a group and returns what they return, in rank order.
fn ranks<T: Send>(size: usize, work: impl Fn(Group) -> T + Sync) -> Vec<T> {
    let network = Network::new();
    let ends: Vec<Arc<dyn Transport>> = (0..size).map(|_| network.endpoint() as Arc<dyn Transport>).collect();
    let names: Vec<PeerId> = ends.iter().map(|end| end.domain().id()).collect();
    connect(&ends);
    let config = GroupConfig { timeout: Duration::from_secs(20), ..GroupConfig::new(7) };
    std::thread::scope(|scope| {
        let run = |end: &Arc<dyn Transport>| {
            work(Group::form(Arc::clone(end), &names, config).expect("all ranks take part"))
        };
        let threads: Vec<_> = ends.iter().map(|end| scope.spawn(move || run(end))).collect();
        threads.into_iter().map(|thread| thread.join().expect("ranks do not panic")).collect()
    })
}

impl Group {
    /// As when this rank's process ends.
    fn disconnect_all(&self) {
        for peer in self.transport().domain().peers() {
            self.transport().disconnect(peer);
        }
    }
}

fn connect(ends: &[Arc<dyn Transport>]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    for (rank, end) in ends.iter().enumerate() {
        for other in &ends[rank + 1..] {
            let connecting = end.connect(other.domain().id(), &other.addresses(), deadline);
            crate::contract::block_on(connecting).expect("they are in one process");
        }
    }
}

/// What rank `rank` passes as element `at`: small integers, of which sums are exact in every type.
fn value(rank: usize, at: usize) -> f32 {
    ((rank * 7 + at * 13) % 17) as f32 - 8.0
}

fn bytes(element: Element, values: impl Iterator<Item = f32>) -> Vec<u8> {
    match element {
        Element::F32 => values.flat_map(f32::to_ne_bytes).collect(),
        Element::F16 => values.flat_map(|value| half::f16::from_f32(value).to_ne_bytes()).collect(),
        Element::Bf16 => values.flat_map(|value| half::bf16::from_f32(value).to_ne_bytes()).collect(),
    }
}

fn reduced(size: usize, at: usize, reduction: Reduction) -> f32 {
    let values = (0..size).map(|rank| value(rank, at));
    match reduction {
        Reduction::Sum => values.sum(),
        Reduction::Max => values.fold(f32::MIN, f32::max),
    }
}

/// Around the bounds of slots and segments, and not multiples of anything.
const LENGTHS: [usize; 7] = [1, 5, 1_000, 65_536, 65_537, 300_001, 1_500_000];

#[test]
fn all_reduce_gives_every_rank_the_same_sums_whatever_their_number() {
    for size in [1, 2, 3, 5] {
        for len in LENGTHS {
            let results = ranks(size, |mut group| {
                let rank = group.rank();
                let mut data = bytes(Element::F32, (0..len).map(|at| value(rank, at)));
                group.all_reduce(&mut data, Element::F32, Reduction::Sum).expect("all ranks take part");
                data
            });
            let expected = bytes(Element::F32, (0..len).map(|at| reduced(size, at, Reduction::Sum)));
            assert!(results.iter().all(|result| *result == expected), "{size} ranks, {len} elements");
        }
    }
}

#[test]
fn every_element_and_reduction_is_as_computed_one_by_one() {
    for element in [Element::F32, Element::F16, Element::Bf16] {
        for reduction in [Reduction::Sum, Reduction::Max] {
            for len in [33, 400_000] {
                let results = ranks(3, |mut group| {
                    let rank = group.rank();
                    let mut data = bytes(element, (0..len).map(|at| value(rank, at)));
                    group.all_reduce(&mut data, element, reduction).expect("all ranks take part");
                    data
                });
                let expected = bytes(element, (0..len).map(|at| reduced(3, at, reduction)));
                assert!(results.iter().all(|result| *result == expected), "{element:?} {reduction:?} {len}");
            }
        }
    }
}

#[test]
fn sums_that_depend_on_their_order_are_the_same_bits_on_every_rank() {
    for len in [1_000, 200_000] {
        let results = ranks(4, |mut group| {
            let scale = [1e8, -1.0, 1e-8, -1e8][group.rank()];
            let mut data = bytes(Element::F32, (0..len).map(|at| scale * (at as f32 + 0.1)));
            group.all_reduce(&mut data, Element::F32, Reduction::Sum).expect("all ranks take part");
            data
        });
        assert!(results.iter().all(|result| *result == results[0]), "{len} elements");
    }
}

#[test]
fn all_gather_keeps_the_order_of_ranks() {
    for (size, len) in [(1, 10), (2, 4_000), (3, 70_001), (4, 600_000)] {
        let results = ranks(size, |mut group| {
            let mine = bytes(Element::F32, (0..len).map(|at| value(group.rank(), at)));
            let mut all = vec![0; mine.len() * size];
            group.all_gather(&mine, &mut all).expect("all ranks take part");
            all
        });
        let all = (0..size).flat_map(|rank| (0..len).map(move |at| value(rank, at)));
        let expected = bytes(Element::F32, all);
        assert!(results.iter().all(|result| *result == expected), "{size} ranks, {len} elements");
    }
}

#[test]
fn reduce_scatter_gives_each_rank_its_part() {
    for (size, len) in [(1, 10), (2, 4_000), (3, 70_001), (4, 300_000)] {
        let results = ranks(size, |mut group| {
            let rank = group.rank();
            let all = bytes(Element::F32, (0..size * len).map(|at| value(rank, at)));
            let mut mine = vec![0; len * 4];
            let reduce = group.reduce_scatter(&all, &mut mine, Element::F32, Reduction::Sum);
            reduce.expect("all ranks take part");
            mine
        });
        for (rank, result) in results.iter().enumerate() {
            let part = (rank * len..(rank + 1) * len).map(|at| reduced(size, at, Reduction::Sum));
            assert!(*result == bytes(Element::F32, part), "rank {rank} of {size}, {len} elements");
        }
    }
}

#[test]
fn broadcast_brings_the_roots_data_to_all() {
    for (size, root, len) in [(1, 0, 10), (2, 1, 10), (3, 1, 900_000), (5, 4, 70_000)] {
        let results = ranks(size, |mut group| {
            let rank = group.rank();
            let mut data = bytes(Element::F32, (0..len).map(|at| value(rank, at)));
            group.broadcast(root, &mut data).expect("all ranks take part");
            data
        });
        let expected = bytes(Element::F32, (0..len).map(|at| value(root, at)));
        assert!(results.iter().all(|result| *result == expected), "{size} ranks from {root}");
    }
}

#[test]
fn operations_of_all_kinds_follow_each_other() {
    let results = ranks(3, |mut group| {
        let rank = group.rank();
        let mut digest = Vec::new();
        for turn in 0..200_usize {
            let len = [1, 300, 80_000][turn % 3];
            let mut data = bytes(Element::F32, (0..len).map(|at| value(rank, at + turn)));
            match turn % 4 {
                0 => group.all_reduce(&mut data, Element::F32, Reduction::Sum).expect("all take part"),
                1 => group.broadcast(turn % 3, &mut data).expect("all take part"),
                2 => group.barrier().expect("all take part"),
                _ => {
                    let mut all = vec![0; data.len() * 3];
                    group.all_gather(&data, &mut all).expect("all take part");
                    data = all;
                }
            }
            if turn % 4 != 2 {
                digest.extend_from_slice(&data[..4]);
            }
        }
        digest
    });
    assert!(results.iter().all(|digest| *digest == results[0]));
}

#[test]
fn a_rank_that_dies_fails_the_others_at_once_and_their_group_for_good() {
    let begun = Instant::now();
    let results = ranks(3, |mut group| {
        if group.rank() == 1 {
            group.disconnect_all();
            return None;
        }
        let mut data = vec![0; 4_000_000];
        let failed =
            group.all_reduce(&mut data, Element::F32, Reduction::Sum).expect_err("a rank is missing");
        assert_eq!(group.barrier(), Err(CollectiveError::Broken));
        Some(failed)
    });
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits for the timeout");
    assert!(results[1].is_none());
    for failed in [results[0], results[2]] {
        assert!(matches!(failed, Some(CollectiveError::RankLost(_))), "{failed:?}");
    }
}

#[test]
fn ranks_that_disagree_find_out() {
    let results = ranks(2, |mut group| {
        let mut data = vec![0; [8, 16][group.rank()]];
        group.all_reduce(&mut data, Element::F32, Reduction::Sum)
    });
    assert_eq!(results[0], Err(CollectiveError::Disagreement { rank: 1, theirs: 16, ours: 8 }));
    assert_eq!(results[1], Err(CollectiveError::Disagreement { rank: 0, theirs: 8, ours: 16 }));
}

#[test]
fn buffers_that_do_not_fit_are_refused_before_anything_is_sent() {
    let results = ranks(2, |mut group| {
        let ragged = group.all_reduce(&mut [0; 6], Element::F32, Reduction::Sum);
        assert_eq!(ragged, Err(CollectiveError::Ragged { bytes: 6, element: 4 }));
        let short = group.all_gather(&[0; 4], &mut [0; 4]);
        assert_eq!(short, Err(CollectiveError::Lengths { size: 2, mine: 4, all: 4 }));
        assert_eq!(group.broadcast(2, &mut [0]), Err(CollectiveError::NoSuchRank { rank: 2, size: 2 }));
        group.barrier()
    });
    assert_eq!(results, [Ok(()), Ok(())]);
}
