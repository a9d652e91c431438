//! Attention over ragged batches against `f64`.

mod reference;

use mlxcel_kernels::{
    AttentionShape, KV_BLOCK_TOKENS, KvDtype, KvPool, KvShape, KvSide, KvSpan, SequenceKv, ShapeError,
    attention,
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
    let line = |side: &KvSide, key: usize| {
        let values = side.values(blocks[key / KV_BLOCK_TOKENS], kv_head, key % KV_BLOCK_TOKENS);
        values.expect("a token of the pool").into_iter().map(f64::from).collect::<Vec<_>>()
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
    sides: [KvSide; 2],
    tables: Vec<Vec<u32>>,
}

impl Pool {
    fn new(shape: &AttentionShape<'_>, lengths: &[Lengths], shared: usize, dtypes: [KvDtype; 2]) -> Self {
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
        let mut pool = Self { sides: dtypes.map(|dtype| unwritten(shape, dtype)), tables };
        for (at, &(_, length, _)) in lengths.iter().enumerate() {
            let width = shape.kv_heads * shape.head_dim;
            for (side, seed) in [(0, 10), (1, 90)] {
                // Shared blocks hold the same rows for all.
                let mut rows = uniform(seed, length * width, -1.0..1.0);
                let own = (shared * KV_BLOCK_TOKENS * width).min(rows.len());
                rows[own..].copy_from_slice(&uniform(seed + at as u64 + 1, length * width, -1.0..1.0)[own..]);
                let to = KvSpan { blocks: &pool.tables[at], start: 0 };
                pool.sides[side].write(&rows, to).expect("there is room");
            }
        }
        pool
    }

    fn kv(&self) -> KvPool<'_> {
        KvPool { keys: &self.sides[0], values: &self.sides[1] }
    }
}

/// A side without a number in it.
fn unwritten(shape: KvShape, dtype: KvDtype) -> KvSide {
    let mut side = KvSide::new(shape, dtype);
    let blocks: Vec<u32> = (0..shape.blocks as u32).collect();
    let rows = vec![f32::NAN; shape.blocks * KV_BLOCK_TOKENS * shape.kv_heads * shape.head_dim];
    side.write(&rows, KvSpan { blocks: &blocks, start: 0 }).expect("the whole pool");
    side
}

const F32: [KvDtype; 2] = [KvDtype::F32; 2];

/// Builds a batch of `lengths`, runs it on every level and compares.
fn check(shape: &AttentionShape<'_>, lengths: &[Lengths]) {
    check_shared(shape, lengths, 0, F32);
}

/// The same, with the first `shared` blocks of all sequences the same, and keys and values of any dtype: compared is
/// with attention over what is stored.
fn check_shared(shape: &AttentionShape<'_>, lengths: &[Lengths], shared: usize, dtypes: [KvDtype; 2]) {
    let &AttentionShape { heads, head_dim, .. } = shape;
    let tokens: usize = lengths.iter().map(|l| l.0).sum();
    let q = uniform(1, tokens * heads * head_dim, -3.0..3.0);
    let pool = Pool::new(shape, lengths, shared, dtypes);
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
        assert_close(&out, &expected, tolerance, &format!("{shape:?} {lengths:?} {dtypes:?} {level:?}"));
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
    check_shared(&shape(6, 2, 32, None), &[(1, 100, 0), (50, 120, 0), (4, 68, 1), (1, 65, 0)], 2, F32);
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
    let (lengths, q) = ([(1, 300, 0), (1, 70, 0), (20, 90, 0)], uniform(1, 22 * 6 * 32, -3.0..3.0));
    for dtype in KvDtype::ALL {
        let pool = Pool::new(&rule, &lengths, 0, [dtype; 2]);
        let of = |queries, at: usize| SequenceKv { queries, blocks: &pool.tables[at], length: lengths[at].1 };
        let run = |sequences: &[SequenceKv<'_>]| {
            let mut out = vec![0.0; q.len()];
            attention(&q, &pool.kv(), sequences, &rule, &mut out).expect("matching sizes");
            out
        };
        let together = run(&[of(0..1, 0), of(1..2, 1), of(2..22, 2)]);
        let alone = run(&[of(1..2, 1)]);
        assert_eq!(alone[192..384], together[192..384], "{dtype}");
    }
}

#[test]
fn every_dtype_serves_single_queries_and_prompts() {
    for dtypes in KvDtype::ALL.map(|dtype| [dtype; 2]).into_iter().chain([[KvDtype::Int8, KvDtype::F32]]) {
        for head_dim in [20, 64, 80, 128] {
            check_shared(&shape(6, 2, head_dim, None), &[(1, 300, 1), (40, 150, 0), (3, 3, 0)], 1, dtypes);
        }
    }
}

#[test]
fn what_is_stored_of_a_token_does_not_depend_on_what_is_written_with_it() {
    let layout = KvShape { blocks: 3, kv_heads: 2, head_dim: 64 };
    let rows = uniform(5, 40 * 128, -4.0..4.0);
    for dtype in KvDtype::ALL {
        let held = |chunks: &[usize]| {
            let (mut side, mut start) = (KvSide::new(layout, dtype), 0);
            for &chunk in chunks {
                let rows = &rows[start * 128..(start + chunk) * 128];
                side.write(rows, KvSpan { blocks: &[2, 0], start }).expect("there is room");
                start += chunk;
            }
            let token =
                |at: usize| [0, 1].map(|head| side.values([2, 0][at / 32], head, at % 32).expect("a token"));
            (0..40).map(token).collect::<Vec<_>>()
        };
        assert!(held(&[40]) == held(&[7, 1, 20, 12]), "{dtype}");
    }
}

#[test]
fn sizes_that_disagree_are_refused() {
    let layout = KvShape { blocks: 1, kv_heads: 1, head_dim: 2 };
    let side = KvSide::new(layout, KvDtype::F32);
    let pool = KvPool { keys: &side, values: &side };
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
    let more = KvSide::new(KvShape { blocks: 2, ..layout }, KvDtype::F32);
    let uneven = KvPool { values: &more, ..pool };
    let blocks = "blocks of the values";
    assert!(matches!(run(&rule, &uneven, &[kv(0..1, 1)]), ShapeError::Bounds { what, .. } if what == blocks));
    let wide = AttentionShape { head_dim: 4, ..rule };
    assert!(matches!(run(&wide, &pool, &[kv(0..1, 1)]), ShapeError::Bounds { .. }));
    let sinks = AttentionShape { sinks: Some(&[0.0; 3]), ..rule };
    assert!(matches!(run(&sinks, &pool, &[kv(0..1, 1)]), ShapeError::Length { what: "sinks", .. }));
}

#[test]
fn written_rows_land_in_the_blocks_of_their_tokens() {
    let layout = KvShape { blocks: 3, kv_heads: 2, head_dim: 1 };
    for dtype in KvDtype::ALL {
        let mut side = KvSide::new(layout, dtype);
        let to = KvSpan { blocks: &[2, 0], start: 31 };
        side.write(&[1.0, 5.0, 2.0, 6.0], to).expect("room for two");
        let at = |side: &KvSide, block, token| {
            [0, 1].map(|head| side.values(block, head, token).expect("of the pool")[0].round())
        };
        assert_eq!((at(&side, 2, 31), at(&side, 0, 0)), ([1.0, 5.0], [2.0, 6.0]), "{dtype}");
        assert_eq!((at(&side, 2, 30), at(&side, 0, 1), at(&side, 1, 31)), ([0.0; 2], [0.0; 2], [0.0; 2]));
        let full = KvSpan { blocks: &[2, 0], start: 63 };
        assert!(side.write(&[0.0; 4], full).is_err());
        side.copy([2, 1]).expect("blocks of the pool");
        assert_eq!(at(&side, 1, 31), [1.0, 5.0], "{dtype}");
        assert!(side.copy([2, 3]).is_err());
        assert!(
            side.values(3, 0, 0).is_err() && side.values(0, 2, 0).is_err() && side.values(0, 0, 32).is_err()
        );
    }
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
        dtypes in prop::array::uniform2(prop::sample::select(KvDtype::ALL.as_slice())),
    ) {
        let (window, soft_cap, sinks) = rules;
        let lengths: Vec<Lengths> = lengths.iter().map(|&(q, before, room)| (q, q + before, room)).collect();
        let heads = kv_heads * group;
        let sinks = sinks.as_deref().map(|sinks| &sinks[..heads]);
        let rule = AttentionShape { soft_cap, sinks, ..shape(heads, kv_heads, head_dim, window) };
        check_shared(&rule, &lengths, shared, dtypes);
    }
}
