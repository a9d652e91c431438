//! How layers are shared between the stages of a pipeline: by time, within memory, never evenly for its own sake.

use super::cost::{Group, Problem, Share};

/// How to share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// The fastest take all they can hold: the shortest way of one token.
    Fastest,
    /// All take equally long: the most tokens where stages work at once.
    Balanced,
}

/// The layers of each of `groups`, in this order; `None` where they do not fit. Groups without layers are left out.
pub(super) fn fill(problem: &Problem<'_>, groups: &[Group], how: Fill) -> Option<Vec<Share>> {
    let count = groups.len();
    let rooms: Vec<usize> =
        groups.iter().enumerate().map(|(at, group)| problem.room(group, at, count)).collect();
    let sequences = problem.demand.sequences.div_ceil(count).max(1) as f64;
    let times: Vec<f64> = groups.iter().map(|group| problem.layer_time(group, sequences)).collect();
    let layers = problem.model.layers;
    if rooms.iter().map(|room| (*room).min(layers)).sum::<usize>() < layers {
        return None;
    }
    let mut shares = match how {
        Fill::Fastest => vec![0; count],
        Fill::Balanced => balanced(&rooms, &times, layers),
    };
    // What is left goes where it costs least.
    let mut left = layers - shares.iter().sum::<usize>();
    while left > 0 {
        let open = (0..count).filter(|at| shares[*at] < rooms[*at]);
        let cost = |at: &usize| match how {
            Fill::Fastest => times[*at],
            Fill::Balanced => (shares[*at] + 1) as f64 * times[*at],
        };
        let next = open.min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
        shares[next] += 1;
        left -= 1;
    }
    // The ends hold embedding and head, whoever has layers.
    let (first, last) = (shares.first()?, shares.last()?);
    if *first == 0 || *last == 0 {
        return None;
    }
    let with = groups.iter().zip(shares).filter(|(_, layers)| *layers > 0);
    Some(with.map(|(group, layers)| Share { group: group.clone(), layers }).collect())
}

/// As many layers for each as it computes in the time in which all of them compute all; rounded down.
fn balanced(rooms: &[usize], times: &[f64], layers: usize) -> Vec<usize> {
    let speed: f64 = times.iter().map(|time| 1.0 / time).sum();
    let time = layers as f64 / speed;
    let share = |(room, own): (&usize, &f64)| ((time / own) as usize).min(*room);
    rooms.iter().zip(times).map(share).collect()
}
