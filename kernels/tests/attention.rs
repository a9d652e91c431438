//! Attention over ragged batches against `f64`.

mod reference;

use mlxcel_kernels::{AttentionShape, CacheShape, SequenceKv, ShapeError, append_kv, attention};
use proptest::prelude::*;
use reference::{assert_close, on_every_level, uniform};

/// Queries of a sequence, tokens it holds, room beyond them.
type Lengths = (usize, usize, usize);

/// Attention by its definition for the query `row` of `sequence`, one head.
fn attend(
    q: &[f32],
    sequence: &SequenceKv<'_>,
    kv_head: usize,
    position: usize,
    shape: &AttentionShape,
) -> Vec<f64> {
    let d = shape.head_dim;
    let first = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let line = |values: &[f32], key: usize| {
        let at = (kv_head * sequence.capacity + key) * d;
        values[at..at + d].iter().map(|&v| f64::from(v)).collect::<Vec<_>>()
    };
    let scores: Vec<f64> = (first..=position)
        .map(|key| {
            let dot: f64 = line(sequence.keys, key).iter().zip(q).map(|(k, &q)| k * f64::from(q)).sum();
            dot * f64::from(shape.scale)
        })
        .collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; d];
    for (key, weight) in (first..).zip(&weights) {
        out.iter_mut().zip(line(sequence.values, key)).for_each(|(out, v)| *out += weight / total * v);
    }
    out
}

/// Builds a batch of `lengths`, runs it on every level and compares.
fn check(shape: &AttentionShape, lengths: &[Lengths]) {
    let &AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    let tokens: usize = lengths.iter().map(|l| l.0).sum();
    let q = uniform(1, tokens * heads * head_dim, -3.0..3.0);
    let caches: Vec<_> = lengths
        .iter()
        .enumerate()
        .map(|(i, &(_, length, room))| {
            let len = kv_heads * (length + room) * head_dim;
            let mut keys = uniform(10 + i as u64, len, -1.0..1.0);
            let mut values = uniform(90 + i as u64, len, -1.0..1.0);
            // What lies beyond the valid tokens must not matter.
            for head in 0..kv_heads {
                let beyond =
                    (head * (length + room) + length) * head_dim..(head + 1) * (length + room) * head_dim;
                keys[beyond.clone()].fill(f32::NAN);
                values[beyond].fill(f32::NAN);
            }
            (keys, values)
        })
        .collect();
    let mut start = 0;
    let sequences: Vec<_> = lengths
        .iter()
        .zip(&caches)
        .map(|(&(queries, length, room), (keys, values))| {
            start += queries;
            SequenceKv { queries: start - queries..start, keys, values, capacity: length + room, length }
        })
        .collect();
    let mut expected = vec![(0.0, 0.0); q.len()];
    for sequence in &sequences {
        for (index, token) in sequence.queries.clone().enumerate() {
            let position = sequence.length - sequence.queries.len() + index;
            for head in 0..heads {
                let at = (token * heads + head) * head_dim;
                let row = attend(&q[at..at + head_dim], sequence, head * kv_heads / heads, position, shape);
                expected[at..at + head_dim].iter_mut().zip(row).for_each(|(e, v)| *e = (v, 1.0));
            }
        }
    }
    on_every_level(|level| {
        let mut out = vec![f32::NAN; q.len()];
        attention(&q, &sequences, shape, &mut out).expect("matching sizes");
        assert_close(&out, &expected, 3e-6, &format!("{shape:?} {lengths:?} {level:?}"));
    });
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), window }
}

#[test]
fn one_query_sees_the_whole_cache() {
    for length in [1, 2, 63, 64, 65, 700] {
        check(&shape(9, 3, 64, None), &[(1, length, 5)]);
    }
}

#[test]
fn a_prompt_sees_what_precedes_each_token() {
    for tokens in [2, 3, 31, 33, 130] {
        check(&shape(4, 2, 64, None), &[(tokens, tokens, 0)]);
    }
}

#[test]
fn a_chunk_of_a_prompt_sees_the_cached_tokens_too() {
    check(&shape(4, 2, 64, None), &[(40, 150, 10)]);
}

#[test]
fn decoding_and_prompts_mix_in_one_batch() {
    check(&shape(6, 2, 32, None), &[(1, 100, 3), (50, 50, 0), (2, 2, 1), (1, 1, 0), (7, 90, 9)]);
}

#[test]
fn a_window_hides_what_lies_before_it() {
    for window in [1, 5, 64, 70] {
        check(&shape(2, 2, 16, Some(window)), &[(1, 200, 0), (90, 200, 4), (3, 3, 0)]);
    }
}

#[test]
fn head_sizes_need_not_fill_vectors() {
    for head_dim in [1, 20, 80, 96, 128, 256] {
        check(&shape(2, 1, head_dim, None), &[(1, 70, 0), (35, 70, 0)]);
    }
}

#[test]
fn many_heads_share_one_key_head() {
    check(&shape(32, 1, 16, None), &[(1, 70, 0), (9, 70, 0)]);
}

#[test]
fn sizes_that_disagree_are_refused() {
    let cache = [0.0; 8];
    let kv = |queries, length| SequenceKv { queries, keys: &cache, values: &cache, capacity: 4, length };
    let run = |shape: &AttentionShape, sequences: &[SequenceKv<'_>]| {
        attention(&[0.0; 8], sequences, shape, &mut [0.0; 8]).expect_err("a wrong size")
    };
    let rule = shape(1, 1, 2, None);
    assert!(matches!(run(&shape(3, 2, 2, None), &[]), ShapeError::Multiple { what: "heads", .. }));
    assert!(matches!(run(&rule, &[kv(0..5, 4)]), ShapeError::Row { id: 5, rows: 4 }));
    assert!(matches!(run(&rule, &[kv(0..2, 1)]), ShapeError::Bounds { what: "cache length", .. }));
    assert!(matches!(run(&rule, &[kv(0..2, 5)]), ShapeError::Bounds { what: "cache length", .. }));
    assert!(matches!(run(&rule, &[kv(0..2, 2), kv(1..3, 2)]), ShapeError::Bounds { .. }));
    assert!(matches!(run(&shape(1, 1, 4, None), &[kv(0..1, 1)]), ShapeError::Length { what: "keys", .. }));
}

#[test]
fn appended_rows_land_behind_the_others_of_their_head() {
    let layout = CacheShape { kv_heads: 2, capacity: 4, head_dim: 1 };
    let mut cache = [0.0; 8];
    append_kv(&[1.0, 5.0, 2.0, 6.0], 0, &layout, &mut cache).expect("room for two");
    append_kv(&[3.0, 7.0], 2, &layout, &mut cache).expect("room for one");
    assert_eq!(cache, [1.0, 2.0, 3.0, 0.0, 5.0, 6.0, 7.0, 0.0]);
    assert!(append_kv(&[0.0; 4], 3, &layout, &mut cache).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn any_ragged_batch_attends(
        kv_heads in 1usize..4,
        group in 1usize..5,
        head_dim in prop::sample::select(vec![8usize, 33, 64]),
        window in prop::option::of(1usize..80),
        lengths in prop::collection::vec((1usize..40, 0usize..90, 0usize..4), 1..4),
    ) {
        let lengths: Vec<Lengths> = lengths.iter().map(|&(q, before, room)| (q, q + before, room)).collect();
        check(&shape(kv_heads * group, kv_heads, head_dim, window), &lengths);
    }
}
