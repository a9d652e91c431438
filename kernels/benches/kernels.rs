//! Throughput of the kernels: `cargo bench -p mlxcel-kernels [-- FILTER] [LEVEL]`.
//!
//! Prints the median and the fastest of many runs; on a machine that does other work the fastest is the kernel's.
//! `LEVEL` is `portable`, `avx2`, `avx512` or `neon`.

#![allow(clippy::print_stdout, reason = "a bench reports on standard output")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use half::f16;
use mlxcel_kernels::{
    Affine, AttentionShape, Floats, KV_BLOCK_TOKENS, KvDtype, KvPool, KvShape, KvSide, KvSpan, Level, Rope,
    SequenceKv, Weight, attention, linear, pool, quantize, quantize_mxfp4, rms_norm, rope, swiglu,
    with_level,
};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let named = |level: &Level| words.iter().any(|word| word.eq_ignore_ascii_case(&format!("{level:?}")));
    let level = Level::available().iter().copied().find(named).unwrap_or(Level::current());
    let filter = words.into_iter().find(|word| !word.eq_ignore_ascii_case(&format!("{level:?}")));
    let wanted = |name: &str| filter.as_deref().is_none_or(|filter| name.contains(filter));
    println!("{level:?}, {} threads", pool().threads());
    let cases: [(&str, fn()); 8] = [
        ("memory", memory),
        ("fork", fork_join),
        ("gemv", products_of_few_rows),
        ("gemm", products_of_many_rows),
        ("mxfp4", products_beside_affine),
        ("attention", attentions),
        ("elementwise", elementwise),
        ("model", model_steps),
    ];
    for (_, run) in cases.into_iter().filter(|(name, _)| wanted(name)) {
        with_level(level, run);
    }
}

/// Median and fastest of the runs of half a second.
fn time(mut run: impl FnMut()) -> (Duration, Duration) {
    run();
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < Duration::from_millis(500) || times.len() < 3 {
        let once = Instant::now();
        run();
        times.push(once.elapsed());
    }
    middle(times)
}

fn report(name: &str, amount: f64, unit: &str, (median, fastest): (Duration, Duration)) {
    let rate = |time: Duration| amount / time.as_secs_f64() / 1e9;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{name:44} {:10.1} us {:8.2} {unit}   best {:10.1} us {:8.2} {unit}",
        micros(median),
        rate(median),
        micros(fastest),
        rate(fastest),
    );
}

/// An affine matrix with half-precision scales.
struct Matrix {
    packed: Vec<u32>,
    scales: Vec<f16>,
    biases: Vec<f16>,
    bits: u32,
    group: usize,
    n: usize,
    k: usize,
}

impl Matrix {
    fn new(n: usize, k: usize, bits: u32, group: usize) -> Self {
        let values: Vec<f32> = (0..n * k).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 504.0).collect();
        let weight = quantize(&values, n, k, bits, group).expect("whole groups");
        let narrow = |values: &[f32]| values.iter().map(|&v| f16::from_f32(v)).collect();
        let (scales, biases) = (narrow(&weight.scales), narrow(&weight.biases));
        Self { packed: weight.packed, scales, biases, bits, group, n, k }
    }

    fn weight(&self) -> Weight<'_> {
        Weight::Affine(Affine {
            packed: &self.packed,
            scales: Floats::F16(&self.scales),
            biases: Floats::F16(&self.biases),
            bits: self.bits,
            group: self.group,
        })
    }

    fn bytes(&self) -> f64 {
        (self.packed.len() * 4 + self.scales.len() * 4) as f64
    }

    fn times(&self, x: &[f32], rows: usize, out: &mut [f32]) {
        let (n, k) = (self.n, self.k);
        linear(&x[..rows * k], rows, k, &self.weight(), n, None, &mut out[..rows * n])
            .expect("matching sizes");
    }
}

fn fork_join() {
    let took = time(|| (0..100).for_each(|_| pool().parallel_for(8, |task| _ = black_box(task))));
    report("100 empty loops of 8 tasks", 0.0, "", took);
}

fn products_of_few_rows() {
    let shapes = [
        (1536, 576, 4, 32),
        (576, 1536, 4, 32),
        (576, 576, 4, 32),
        (192, 576, 4, 32),
        (4096, 4096, 4, 64),
        (4096, 4096, 6, 64),
        (49152, 576, 8, 32),
    ];
    for (n, k, bits, group) in shapes {
        let matrix = Matrix::new(n, k, bits, group);
        for rows in [1, 2, 4, 8] {
            let (x, mut out) = (vec![0.5; rows * k], vec![0.0; rows * n]);
            let took = time(|| matrix.times(black_box(&x), rows, &mut out));
            report(&format!("gemv {rows} x [{n} x {k}] {bits} bits g{group}"), matrix.bytes(), "GB/s", took);
        }
    }
    let dense: Vec<f16> = vec![f16::from_f32(0.25); 4096 * 4096];
    let (x, mut out) = (vec![0.5; 4096], vec![0.0; 4096]);
    let weight = Weight::Dense(Floats::F16(&dense));
    let took =
        time(|| linear(black_box(&x), 1, 4096, &weight, 4096, None, &mut out).expect("matching sizes"));
    report("gemv 1 x [4096 x 4096] f16", 2.0 * 4096.0 * 4096.0, "GB/s", took);
}

fn products_of_many_rows() {
    for (n, k, bits, group) in
        [(1536, 576, 4, 32), (576, 1536, 4, 32), (192, 576, 4, 32), (4096, 4096, 4, 64)]
    {
        let matrix = Matrix::new(n, k, bits, group);
        for rows in [9, 16, 32, 64, 512] {
            let (x, mut out) = (vec![0.5; rows * k], vec![0.0; rows * n]);
            let took = time(|| matrix.times(black_box(&x), rows, &mut out));
            let operations = 2.0 * (rows * n * k) as f64;
            report(&format!("gemm {rows} x [{n} x {k}] {bits} bits g{group}"), operations, "GFLOP/s", took);
        }
    }
}

/// What all threads read of memory that no cache holds, which no product of one row can beat.
fn memory() {
    let words = uncached();
    report("memory read", 8.0 * words.len() as f64, "GB/s", time(|| read(black_box(&words))));
}

/// 256 MiB.
fn uncached() -> Vec<u64> {
    vec![1; 1 << 25]
}

fn read(words: &[u64]) {
    let parts = words.len() / READ_WORDS;
    pool().parallel_for(parts, |part| {
        let words = &words[part * READ_WORDS..(part + 1) * READ_WORDS];
        black_box(words.iter().fold(0, |all, word| all ^ word));
    });
}

const READ_WORDS: usize = 1 << 16;

/// The same matrices in mxfp4 and in affine groups of as many values and bits, in turns with plain reading of memory. The
/// first is larger than caches are.
fn products_beside_affine() {
    let words = uncached();
    for (n, k) in [(16384, 8192), (8192, 2048), (2048, 8192), (1536, 576)] {
        let affine = Matrix::new(n, k, 4, 32);
        let values: Vec<f32> = (0..n * k).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 504.0).collect();
        let floats = quantize_mxfp4(&values, n, k).expect("whole groups");
        let weight = Weight::Mxfp4(floats.as_mxfp4());
        let bytes = (floats.packed.len() * 4 + floats.scales.len()) as f64;
        for rows in [1, 2, 4, 8, 16, 64] {
            let (x, mut out) = (vec![0.5; rows * k], vec![0.0; rows * n]);
            let mut other = out.clone();
            let (mut ours, mut theirs, mut floor) = (Vec::new(), Vec::new(), Vec::new());
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(1) || ours.len() < 5 {
                floor.push(once(|| read(black_box(&words))));
                // Twice, as the first of them finds the caches as reading has left them.
                for _ in 0..2 {
                    theirs.push(once(|| affine.times(black_box(&x), rows, &mut other)));
                    let mut run = || linear(black_box(&x), rows, k, &weight, n, None, &mut out);
                    ours.push(once(|| run().expect("matching sizes")));
                }
            }
            // The first time of each pair is that of the cold cache.
            let warm = |times: Vec<Duration>| middle(times.into_iter().skip(1).step_by(2).collect());
            report(&format!("mxfp4 {rows} x [{n} x {k}]"), bytes, "GB/s", warm(ours));
            report("    affine, 4 bits g32", affine.bytes(), "GB/s", warm(theirs));
            report("    plain reading", 8.0 * words.len() as f64, "GB/s", middle(floor));
        }
    }
}

fn once(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

/// Median and fastest.
fn middle(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[0])
}

fn attentions() {
    for (heads, kv_heads, head_dim) in [(9, 3, 64), (32, 8, 128)] {
        for (queries, length) in [(1, 128), (1, 512), (1, 4096), (512, 512), (512, 4096)] {
            for dtype in KvDtype::ALL {
                attention_of([heads, kv_heads, head_dim], (queries, length), dtype);
            }
        }
    }
}

fn attention_of([heads, kv_heads, head_dim]: [usize; 3], (queries, length): (usize, usize), dtype: KvDtype) {
    let shape = attention_shape(heads, kv_heads, head_dim);
    let cache = Cache::new(kv_heads, length, head_dim, dtype);
    let q = vec![0.25; queries * heads * head_dim];
    let mut out = vec![0.0; q.len()];
    let took = time(|| cache.attend(black_box(&q), (queries, length), &shape, &mut out));
    let seen = queries * length - queries * (queries - 1) / 2;
    let operations = 4.0 * (seen * heads * head_dim) as f64;
    let name = format!("attention {queries} of {length}, {heads}/{kv_heads} heads of {head_dim}, {dtype}");
    report(&name, operations, "GFLOP/s", took);
}

fn attention_shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape<'static> {
    AttentionShape { heads, kv_heads, head_dim, scale: 0.125, window: None, soft_cap: None, sinks: None }
}

/// One sequence's keys and values, its blocks in no order.
struct Cache {
    side: KvSide,
    blocks: Vec<u32>,
}

impl Cache {
    fn new(kv_heads: usize, length: usize, head_dim: usize, dtype: KvDtype) -> Self {
        let count = length.div_ceil(KV_BLOCK_TOKENS);
        let shape = KvShape { blocks: count, kv_heads, head_dim };
        let mut blocks: Vec<u32> = (0..count as u32).collect();
        blocks.sort_by_key(|block| block.wrapping_mul(0x9e37_79b9));
        let mut side = KvSide::new(shape, dtype);
        let rows = vec![0.5; length * kv_heads * head_dim];
        side.write(&rows, KvSpan { blocks: &blocks, start: 0 }).expect("matching sizes");
        Self { side, blocks }
    }

    fn attend(
        &self,
        q: &[f32],
        (queries, length): (usize, usize),
        shape: &AttentionShape<'_>,
        out: &mut [f32],
    ) {
        let pool = KvPool { keys: &self.side, values: &self.side };
        let sequence = [SequenceKv { queries: 0..queries, blocks: &self.blocks, length }];
        attention(q, &pool, &sequence, shape, out).expect("matching sizes");
    }
}

fn elementwise() {
    for tokens in [1, 512] {
        let (x, weight, mut out) = (vec![0.5; tokens * 1536], vec![1.0; 576], vec![0.0; tokens * 1536]);
        let len = tokens * 576;
        let took = time(|| {
            rms_norm(black_box(&x[..len]), tokens, &weight, 1e-5, &mut out[..len]).expect("matching sizes");
        });
        report(&format!("rms_norm {tokens} x 576"), len as f64, "G/s", took);
        let took = time(|| swiglu(black_box(&x), &x, &mut out).expect("equal lengths"));
        report(&format!("swiglu {tokens} x 1536"), x.len() as f64, "G/s", took);
        let positions: Vec<i32> = (0..tokens as i32).collect();
        let frequencies = vec![0.5; 32];
        let rule = Rope { inverse_frequencies: &frequencies, dims: 64, traditional: false, magnitude: 1.0 };
        let took =
            time(|| rope(black_box(&mut out[..len]), 9, 64, &positions, &rule).expect("matching sizes"));
        report(&format!("rope {tokens} x 9 x 64"), len as f64, "G/s", took);
    }
}

/// One layer of SmolLM2-135M; weights of its own, so that a step reads as much memory as the model's.
struct Layer {
    attention: [Matrix; 4],
    feed_forward: [Matrix; 3],
}

/// A SmolLM2-135M step without its embedding: 30 layers, and the head for the last token.
fn model_steps() {
    let layer = |_| Layer {
        attention: [(576, 576), (192, 576), (192, 576), (576, 576)].map(|(n, k)| Matrix::new(n, k, 4, 32)),
        feed_forward: [(1536, 576), (1536, 576), (576, 1536)].map(|(n, k)| Matrix::new(n, k, 4, 32)),
    };
    let (layers, head): (Vec<_>, _) = ((0..30).map(layer).collect(), Matrix::new(49152, 576, 8, 32));
    for (tokens, length) in [(1, 64), (1, 512), (4, 512), (64, 64), (512, 512)] {
        let took = time(|| step(&layers, &head, tokens, length));
        report(&format!("SmolLM2-135M, {tokens} tokens of {length}"), tokens as f64 * 1e9, "tok/s", took);
    }
}

fn step(layers: &[Layer], head: &Matrix, tokens: usize, length: usize) {
    let shape = attention_shape(9, 3, 64);
    let buffer = |width: usize| vec![0.01; tokens * width];
    let (mut x, mut normed, mut q, mut mixed) = (buffer(576), buffer(576), buffer(576), buffer(576));
    let (mut k, mut v, mut gate, mut up, mut wide) =
        (buffer(192), buffer(192), buffer(1536), buffer(1536), buffer(1536));
    let (cache, weight, frequencies) =
        (Cache::new(3, length, 64, KvDtype::F32), vec![1.0; 576], vec![0.5; 32]);
    let positions: Vec<i32> = (0..tokens as i32).collect();
    let rule = Rope { inverse_frequencies: &frequencies, dims: 64, traditional: false, magnitude: 1.0 };
    for layer in layers {
        rms_norm(&x, tokens, &weight, 1e-5, &mut normed).expect("matching sizes");
        layer.attention[0].times(&normed, tokens, &mut q);
        layer.attention[1].times(&normed, tokens, &mut k);
        layer.attention[2].times(&normed, tokens, &mut v);
        rope(&mut q, 9, 64, &positions, &rule).expect("matching sizes");
        rope(&mut k, 3, 64, &positions, &rule).expect("matching sizes");
        cache.attend(&q, (tokens, length), &shape, &mut mixed);
        layer.attention[3].times(&mixed, tokens, &mut normed);
        x.iter_mut().zip(&normed).for_each(|(x, delta)| *x = 0.5 * *x + 1e-3 * delta);
        rms_norm(&x, tokens, &weight, 1e-5, &mut normed).expect("matching sizes");
        layer.feed_forward[0].times(&normed, tokens, &mut gate);
        layer.feed_forward[1].times(&normed, tokens, &mut up);
        swiglu(&gate, &up, &mut wide).expect("equal lengths");
        layer.feed_forward[2].times(&wide, tokens, &mut mixed);
        x.iter_mut().zip(&mixed).for_each(|(x, delta)| *x = 0.5 * *x + 1e-3 * delta);
    }
    let mut logits = vec![0.0; 49152];
    head.times(&x[(tokens - 1) * 576..], 1, &mut logits);
    black_box(logits);
}
