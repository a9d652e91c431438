//! Log-probabilities: of one token, and of the most likely ones.
//!
//! Of the distribution the logits themselves describe, their softmax; what a sampler makes of them
//! afterwards is not its business.

use super::weight::exponential;

/// How likely tokens are.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Log-probability of the token asked about.
    pub chosen: f32,
    /// The most likely tokens with theirs, falling; of equal ones the lower id first.
    pub top: Vec<(u32, f32)>,
}

/// Log-probabilities of `token` and of the `top` most likely tokens under the softmax of `logits`. The absolute
/// error is below 1e-5. A token that is not among the logits, and one whose logit is negative infinity, has
/// negative infinity.
pub fn rank(logits: &[f32], token: u32, top: usize) -> Ranking {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let log_mass = mass(logits, largest).ln();
    let logprob = |logit: f32| (f64::from(logit - largest) - log_mass) as f32;
    let chosen = logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| logprob(logit));
    let top = most_likely(logits, top).into_iter().map(|(id, logit)| (id, logprob(logit))).collect();
    Ranking { chosen, top }
}

/// The sum of `exp(logit - largest)`.
fn mass(logits: &[f32], largest: f32) -> f64 {
    // Short runs in f32 lanes, so that rounding does not add up over a large vocabulary.
    let run = |logits: &[f32]| {
        let mut lanes = [0.0_f32; LANES];
        for chunk in logits.chunks(LANES) {
            for (lane, &logit) in lanes.iter_mut().zip(chunk) {
                *lane += exponential(logit - largest);
            }
        }
        lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>()
    };
    logits.chunks(LANES * 64).map(run).sum()
}

fn most_likely(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    if count == 0 {
        return best;
    }
    let mut floor = f32::NEG_INFINITY;
    for (index, chunk) in logits.chunks(LANES).enumerate() {
        // Equal to the floor is not enough: the tokens kept so far have lower ids.
        if best.len() == count && !chunk.iter().fold(false, |any, &logit| any | (logit > floor)) {
            continue;
        }
        for (offset, &logit) in chunk.iter().enumerate() {
            if best.len() == count && logit <= floor {
                continue;
            }
            let place = best.partition_point(|&(_, other)| other >= logit);
            best.insert(place, ((index * LANES + offset) as u32, logit));
            best.truncate(count);
            floor = best.last().map_or(f32::NEG_INFINITY, |&(_, logit)| logit);
        }
    }
    best
}

const LANES: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact(logits: &[f32]) -> Vec<f64> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
        logits.iter().map(|&l| f64::from(l - largest) - total.ln()).collect()
    }

    proptest! {
        #[test]
        fn ranking_is_the_sorted_log_softmax(
            logits in prop::collection::vec(-30.0_f32..30.0, 1..3000),
            token in any::<prop::sample::Index>(),
            top in 0_usize..25,
        ) {
            let token = token.index(logits.len());
            let exact = exact(&logits);
            let ranking = rank(&logits, token as u32, top);
            prop_assert!((f64::from(ranking.chosen) - exact[token]).abs() < 1e-5);
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            let expected: Vec<u32> = order.iter().take(top).map(|&id| id as u32).collect();
            prop_assert_eq!(ranking.top.iter().map(|&(id, _)| id).collect::<Vec<_>>(), expected);
            for (id, logprob) in ranking.top {
                prop_assert!((f64::from(logprob) - exact[id as usize]).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn impossible_tokens_have_no_probability() {
        let ranking = rank(&[0.0, f32::NEG_INFINITY, 0.0], 1, 2);
        assert_eq!(ranking.chosen, f32::NEG_INFINITY);
        assert_eq!(ranking.top.iter().map(|&(id, _)| id).collect::<Vec<_>>(), [0, 2]);
        assert!((ranking.top[0].1 + std::f32::consts::LN_2).abs() < 1e-6);
    }
}
