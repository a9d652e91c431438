//! Attention over ragged batches against `f64`.

mod reference;

use mlxcel_kernels::{
    AttentionShape, KV_BLOCK_TOKENS, KvPool, KvShape, KvSpan, SequenceKv, ShapeError, attention, copy_kv,
    write_kv,
};
use proptest::prelude::*;
use reference::{assert_close, on_every_level, uniform};

/// Queries of a sequence, tokens it holds, blocks it has beyond them.
type Lengths = (usize, usize, usize);

/// Attention by its definition for one query of `head` at `position`.
fn attend(
    (q, head): (&[f32], usize),
    (kv, blocks): (&KvPool<'_>, &[u32]),
    position: usize,
    shape: &AttentionShape<'_>,
) -> Vec<f64> {
    let d = shape.head_dim;
    let kv_head = head * shape.kv_heads / shape.heads;
    let first = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let line = |values: &[f32], key: usize| {
        let block = blocks[key / KV_BLOCK_TOKENS] as usize;
        let at = ((block * shape.kv_heads + kv_head) * KV_BLOCK_TOKENS + key % KV_BLOCK_TOKENS) * d;
        values[at..at + d].iter().map(|&v| f64::from(v)).collect::<Vec<_>>()
    };
    let score = |key: usize| {
        let dot: f64 = line(kv.keys, key).iter().zip(q).map(|(k, &q)| k * f64::from(q)).sum();
        let score = dot * f64::from(shape.scale);
        shape.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
    };
    let scores: Vec<f64> = (first..=position).map(score).collect();
    let sink = shape.sinks.map_or(f64::NEG_INFINITY, |sinks| f64::from(sinks[head]));
    let most = scores.iter().copied().fold(sink, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
    let total: f64 = weights.iter().sum::<f64>() + (sink - most).exp();
    let mut out = vec![0.0; d];
    for (key, weight) in (first..).zip(&weights) {
        out.iter_mut().zip(line(kv.values, key)).for_each(|(out, v)| *out += weight / total * v);
    }
    out
}

/// A pool and the blocks of each sequence; all begin with the same blocks as far as these are full.
struct Pool {
    shape: KvShape,
    sides: [Vec<f32>; 2],
    tables: Vec<Vec<u32>>,
}

impl Pool {
    fn new(shape: &AttentionShape<'_>, lengths: &[Lengths], shared: usize) -> Self {
        let count = |l: &Lengths| l.1.div_ceil(KV_BLOCK_TOKENS) + l.2;
        let blocks = shared + lengths.iter().map(count).sum::<usize>();
        // Any order will do that is not the order of the tokens; 7919 is prime.
        let mut next = (0..blocks).map(|at| (at * 7919 % blocks) as u32);
        let prefix: Vec<u32> = next.by_ref().take(shared).collect();
        let table = |l: &Lengths| {
            let own_from = (l.1 / KV_BLOCK_TOKENS).min(shared);
            let own = next.by_ref().take(count(l) - own_from);
            prefix[..own_from].iter().copied().chain(own).collect::<Vec<u32>>()
        };
        let tables = lengths.iter().map(table).collect();
        let shape = KvShape { blocks, kv_heads: shape.kv_heads, head_dim: shape.head_dim };
        // What holds no token must not matter.
        let mut pool = Self { shape, sides: [(); 2].map(|()| vec![f32::NAN; shape.side_len()]), tables };
        for (at, &(_, length, _)) in lengths.iter().enumerate() {
            let width = shape.kv_heads * shape.head_dim;
            for (side, seed) in [(0, 10), (1, 90)] {
                // Shared blocks hold the same rows for all.
                let mut rows = uniform(seed, length * width, -1.0..1.0);
                let own = (shared * KV_BLOCK_TOKENS * width).min(rows.len());
                rows[own..].copy_from_slice(&uniform(seed + at as u64 + 1, length * width, -1.0..1.0)[own..]);
                let to = KvSpan { blocks: &pool.tables[at], start: 0 };
                write_kv(&rows, to, &shape, &mut pool.sides[side]).expect("there is room");
            }
        }
        pool
    }

    fn kv(&self) -> KvPool<'_> {
        KvPool { shape: self.shape, keys: &self.sides[0], values: &self.sides[1] }
    }
}

/// Builds a batch of `lengths`, runs it on every level and compares.
fn check(shape: &AttentionShape<'_>, lengths: &[Lengths]) {
    check_shared(shape, lengths, 0);
}

/// The same, with the first `shared` blocks of all sequences the same.
fn check_shared(shape: &AttentionShape<'_>, lengths: &[Lengths], shared: usize) {
    let &AttentionShape { heads, head_dim, .. } = shape;
    let tokens: usize = lengths.iter().map(|l| l.0).sum();
    let q = uniform(1, tokens * heads * head_dim, -3.0..3.0);
    let pool = Pool::new(shape, lengths, shared);
    let mut start = 0;
    let sequences: Vec<_> = lengths
        .iter()
        .zip(&pool.tables)
        .map(|(&(queries, length, _), blocks)| {
            start += queries;
            SequenceKv { queries: start - queries..start, blocks, length }
        })
        .collect();
    let mut expected = vec![(0.0, 0.0); q.len()];
    for sequence in &sequences {
        for (index, token) in sequence.queries.clone().enumerate() {
            let position = sequence.length - sequence.queries.len() + index;
            for head in 0..heads {
                let at = (token * heads + head) * head_dim;
                let query = (&q[at..at + head_dim], head);
                let row = attend(query, (&pool.kv(), sequence.blocks), position, shape);
                expected[at..at + head_dim].iter_mut().zip(row).for_each(|(e, v)| *e = (v, 1.0));
            }
        }
    }
    // A cap multiplies the rounding of its tanh.
    let tolerance = 3e-6 + shape.soft_cap.map_or(0.0, |cap| f64::from(cap) * 5e-7);
    on_every_level(|level| {
        let mut out = vec![f32::NAN; q.len()];
        attention(&q, &pool.kv(), &sequences, shape, &mut out).expect("matching sizes");
        assert_close(&out, &expected, tolerance, &format!("{shape:?} {lengths:?} {level:?}"));
    });
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> AttentionShape<'static> {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape { heads, kv_heads, head_dim, scale, window, soft_cap: None, sinks: None }
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
fn sequences_share_blocks() {
    check_shared(&shape(6, 2, 32, None), &[(1, 100, 0), (50, 120, 0), (4, 68, 1), (1, 65, 0)], 2);
}

#[test]
fn a_soft_cap_bends_the_scores() {
    for cap in [0.5, 5.0, 50.0] {
        let rule = AttentionShape { soft_cap: Some(cap), ..shape(4, 2, 64, None) };
        check(&rule, &[(1, 130, 0), (40, 90, 0)]);
    }
}

#[test]
fn a_sink_takes_its_share_of_each_head() {
    for sinks in [[-1.0, 0.0, 3.0, -40.0], [200.0, 1.0, 2.0, -200.0]] {
        let rule = AttentionShape { sinks: Some(&sinks), ..shape(4, 2, 64, Some(50)) };
        check(&rule, &[(1, 130, 0), (40, 90, 0), (1, 1, 0)]);
    }
}

#[test]
fn a_query_attends_alike_whatever_it_is_computed_with() {
    // Bit for bit among single queries: what a batch holds besides must not matter to a decode token.
    let rule = shape(6, 2, 32, None);
    let lengths = [(1, 300, 0), (1, 70, 0), (20, 90, 0)];
    let (pool, q) = (Pool::new(&rule, &lengths, 0), uniform(1, 22 * 6 * 32, -3.0..3.0));
    let of = |queries, at: usize| SequenceKv { queries, blocks: &pool.tables[at], length: lengths[at].1 };
    let run = |sequences: &[SequenceKv<'_>]| {
        let mut out = vec![0.0; q.len()];
        attention(&q, &pool.kv(), sequences, &rule, &mut out).expect("matching sizes");
        out
    };
    let together = run(&[of(0..1, 0), of(1..2, 1), of(2..22, 2)]);
    let alone = run(&[of(1..2, 1)]);
    assert_eq!(alone[192..384], together[192..384]);
}

#[test]
fn sizes_that_disagree_are_refused() {
    let side = [0.0; 2 * KV_BLOCK_TOKENS];
    let layout = KvShape { blocks: 1, kv_heads: 1, head_dim: 2 };
    let pool = KvPool { shape: layout, keys: &side, values: &side };
    let kv = |queries, length| SequenceKv { queries, blocks: &[0], length };
    let run = |shape: &AttentionShape<'_>, pool: &KvPool<'_>, sequences: &[SequenceKv<'_>]| {
        attention(&[0.0; 8], pool, sequences, shape, &mut [0.0; 8]).expect_err("a wrong size")
    };
    let rule = shape(1, 1, 2, None);
    assert!(matches!(run(&shape(3, 2, 2, None), &pool, &[]), ShapeError::Multiple { what: "heads", .. }));
    assert!(matches!(run(&rule, &pool, &[kv(0..5, 5)]), ShapeError::Row { id: 5, rows: 4 }));
    assert!(matches!(run(&rule, &pool, &[kv(0..2, 1)]), ShapeError::Bounds { .. }));
    assert!(matches!(run(&rule, &pool, &[kv(0..2, 33)]), ShapeError::Bounds { .. }));
    assert!(matches!(run(&rule, &pool, &[kv(0..2, 2), kv(1..3, 2)]), ShapeError::Bounds { .. }));
    let outside = SequenceKv { queries: 0..1, blocks: &[1], length: 1 };
    assert!(matches!(run(&rule, &pool, &[outside]), ShapeError::Row { id: 1, rows: 1 }));
    let short = KvPool { keys: &side[1..], ..pool };
    assert!(matches!(run(&rule, &short, &[kv(0..1, 1)]), ShapeError::Length { what: "keys", .. }));
    let wide = AttentionShape { head_dim: 4, ..rule };
    assert!(matches!(run(&wide, &pool, &[kv(0..1, 1)]), ShapeError::Bounds { .. }));
    let sinks = AttentionShape { sinks: Some(&[0.0; 3]), ..rule };
    assert!(matches!(run(&sinks, &pool, &[kv(0..1, 1)]), ShapeError::Length { what: "sinks", .. }));
}

#[test]
fn written_rows_land_in_the_blocks_of_their_tokens() {
    let layout = KvShape { blocks: 3, kv_heads: 2, head_dim: 1 };
    let mut side = vec![0.0; layout.side_len()];
    let to = KvSpan { blocks: &[2, 0], start: 31 };
    write_kv(&[1.0, 5.0, 2.0, 6.0], to, &layout, &mut side).expect("room for two");
    let held: Vec<_> = side.iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(at, v)| (at, *v)).collect();
    assert_eq!(held, [(0, 2.0), (32, 6.0), (2 * 64 + 31, 1.0), (2 * 64 + 63, 5.0)]);
    let full = KvSpan { blocks: &[2, 0], start: 63 };
    assert!(write_kv(&[0.0; 4], full, &layout, &mut side).is_err());
    copy_kv([2, 1], 32, &layout, &mut side).expect("blocks of the pool");
    assert_eq!((side[64 + 31], side[64 + 63]), (1.0, 5.0));
    assert!(copy_kv([2, 3], 1, &layout, &mut side).is_err());
    assert!(copy_kv([2, 1], 33, &layout, &mut side).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_ragged_batch_attends(
        kv_heads in 1usize..4,
        group in 1usize..5,
        head_dim in prop::sample::select(vec![8usize, 33, 64]),
        rules in (
            prop::option::of(1usize..80),
            prop::option::of(1.0f32..40.0),
            prop::option::of(prop::collection::vec(-5.0f32..5.0, 16)),
        ),
        lengths in prop::collection::vec((1usize..40, 0usize..90, 0usize..2), 1..4),
        shared in 0usize..4,
    ) {
        let (window, soft_cap, sinks) = rules;
        let lengths: Vec<Lengths> = lengths.iter().map(|&(q, before, room)| (q, q + before, room)).collect();
        let heads = kv_heads * group;
        let sinks = sinks.as_deref().map(|sinks| &sinks[..heads]);
        let rule = AttentionShape { soft_cap, sinks, ..shape(heads, kv_heads, head_dim, window) };
        check_shared(&rule, &lengths, shared);
    }
}
