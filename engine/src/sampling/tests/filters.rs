//! What filters keep, and how often each token is drawn.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::choose::{Chooser, Filters};
use super::super::weight::{ONE, weight};
use super::{draws, sampler, warm};
use crate::SamplingParams;

/// Pearson's statistic of 40 000 draws against the softmax, which must stay below the value that
/// chance exceeds once in 100 000 times (chi-square, normal approximation of Wilson and Hilferty).
fn assert_distributed(params: SamplingParams, logits: &[f32], kept: &[u32]) {
    let count = 40_000;
    let temperature = f64::from(params.temperature);
    let share = |id: u32| (f64::from(logits[id as usize]) / temperature).exp();
    let total: f64 = kept.iter().map(|&id| share(id)).sum();
    let mut seen = BTreeMap::<u32, f64>::new();
    for token in draws(sampler(params, logits.len()), logits, count) {
        *seen.entry(token).or_default() += 1.0;
    }
    assert!(seen.keys().all(|id| kept.contains(id)), "{seen:?}");
    let statistic: f64 = kept
        .iter()
        .map(|&id| {
            let expected = share(id) / total * count as f64;
            (seen.get(&id).copied().unwrap_or(0.0) - expected).powi(2) / expected
        })
        .sum();
    let freedom = (kept.len() - 1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    let limit = freedom * (1.0 - spread + 4.265 * spread.sqrt()).powi(3);
    assert!(statistic < limit, "{statistic} of {limit}");
}

#[test]
fn draws_follow_the_softmax() {
    let logits: Vec<f32> = (0..30).map(|id| (id as f32 * 1.3).sin() * 2.0).collect();
    let all: Vec<u32> = (0..30).collect();
    for temperature in [0.7, 1.0, 2.5] {
        assert_distributed(warm(temperature), &logits, &all);
    }
}

#[test]
fn draws_follow_the_softmax_of_what_filters_keep() {
    // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625 of ids 3, 1, 4, 0, 2.
    let logits = [0.0625_f32, 0.25, 0.0625, 0.5, 0.125].map(f32::ln);
    let plain = warm(1.0);
    let cases: [(SamplingParams, &[u32]); 6] = [
        (SamplingParams { top_k: 2, ..plain.clone() }, &[1, 3]),
        (SamplingParams { top_k: 4, ..plain.clone() }, &[0, 1, 3, 4]),
        (SamplingParams { top_p: 0.74, ..plain.clone() }, &[1, 3]),
        (SamplingParams { top_p: 0.8, ..plain.clone() }, &[1, 3, 4]),
        (SamplingParams { min_p: 0.2, ..plain.clone() }, &[1, 3, 4]),
        // Of three kept by top-k, two reach 0.84 of what is left.
        (SamplingParams { top_k: 3, top_p: 0.84, min_p: 0.1, ..plain }, &[1, 3]),
    ];
    for (params, kept) in cases {
        assert_distributed(params, &logits, kept);
    }
}

/// Sorts everything and walks down, as the filters are defined.
fn kept_by_definition(logits: &[f32], filters: &Filters) -> Vec<u32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut tokens: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
    tokens.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    if filters.top_k > 0 {
        tokens.truncate(filters.top_k);
    }
    let weight_of = |logit: f32| u64::from(weight((logit - largest) / filters.temperature));
    let total: u64 = tokens.iter().map(|token| weight_of(token.0)).sum();
    let mut before = 0;
    let mut kept = Vec::new();
    for (logit, id) in tokens {
        let weight = weight_of(logit);
        let reached = filters.top_p < 1.0 && before as f64 >= f64::from(filters.top_p) * total as f64;
        if reached || weight == 0 || (weight as f64) < f64::from(filters.min_p) * f64::from(ONE) {
            break;
        }
        before += weight;
        kept.push(id);
    }
    kept.sort_unstable();
    kept
}

fn filters() -> impl Strategy<Value = Filters> {
    let top_k = prop_oneof![Just(0), 1_usize..20, 1_usize..2000];
    let top_p = prop_oneof![Just(1.0_f32), 0.001_f32..1.0];
    let min_p = prop_oneof![Just(0.0_f32), 0.0_f32..=1.0];
    (0.05_f32..4.0, top_k, top_p, min_p).prop_map(|(temperature, top_k, top_p, min_p)| Filters {
        temperature,
        top_k,
        top_p,
        min_p,
    })
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    // Coarse values make ties.
    let coarse = prop::collection::vec((-20_i8..20).prop_map(|step| f32::from(step) * 0.5), 1..1500);
    let fine = prop::collection::vec(-12.0_f32..12.0, 1..1500);
    let spiked =
        prop::collection::vec(prop_oneof![Just(f32::NEG_INFINITY), -8.0_f32..0.0, Just(9.0_f32)], 1..1500)
            .prop_map(|mut logits| {
                logits[0] = 1.0;
                logits
            });
    prop_oneof![coarse, fine, spiked]
}

proptest! {
    #[test]
    fn filters_keep_what_their_definition_keeps(logits in logits(), filters in filters()) {
        let mut chooser = Chooser::default();
        let expected = kept_by_definition(&logits, &filters);
        let mut draw = |random| chooser.choose(&logits, &filters, random).expect("usable logits");
        prop_assert_eq!(draw(0), expected[0]);
        prop_assert_eq!(draw(u64::MAX), expected[expected.len() - 1]);
        // Random numbers in the middle of each token's share.
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<u64> = expected
            .iter()
            .map(|&id| u64::from(weight((logits[id as usize] - largest) / filters.temperature)))
            .collect();
        let total: u64 = weights.iter().sum();
        let mut before = 0;
        for (&id, weight) in expected.iter().zip(weights) {
            let middle = (u128::from(2 * before + weight) << 63) / u128::from(total);
            prop_assert_eq!(draw(middle as u64), id);
            before += weight;
        }
    }

    #[test]
    fn usable_logits_never_fail(
        logits in prop::collection::vec(prop_oneof![-1e38_f32..1e38, -1e-38_f32..1e-38], 1..300),
        temperature in prop_oneof![Just(1e-45_f32), 1e-30_f32..1e-20, 0.0_f32..1e30],
        top_k in 0_u32..40,
        top_p in 1e-6_f32..=1.0,
    ) {
        let params = SamplingParams { top_k, top_p, ..warm(temperature) };
        let token = sampler(params, logits.len()).sample(&mut logits.clone());
        prop_assert!(token.is_ok_and(|token| (token as usize) < logits.len()));
    }
}
