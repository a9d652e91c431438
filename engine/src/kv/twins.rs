//! Attention of the CPU and of our CUDA kernel over their pools held against plain MLX operations over theirs, step by
//! step. The CUDA ones need an NVIDIA device: `bench/gpu/README.md` says how to run them on one.

mod exchange;

use std::rc::Rc;

use mlxcel_kernels::KvDtype;
use mlxcel_mlx_bridge::{Array, Dtype};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{AttentionRule, CudaKv, GraphKv, HostKv, KvCache};
use crate::api::DeviceChoice;
use crate::blocks::{BLOCK_TOKENS, BlockCopy, BlockStore, BlockTable};
use crate::decoder::{Attention, CudaKernels, Cut, Linear, Rope, StepInputs};
use crate::device::Device;
use crate::schedule::{SequenceId, Span, StepPlan, Token};

const LAYERS: usize = 2;
const BLOCKS: usize = 40;

/// Both caches, and the sequences that use them.
struct Twins {
    random: ChaCha8Rng,
    attention: Attention,
    sinks: Option<Array>,
    /// The fast one and the slow one.
    caches: [Box<dyn KvCache>; 2],
    /// Of the rows that the fast one is given; the slow one is given the same numbers in f32.
    dtype: Dtype,
    /// How far outputs may be apart, as a share of the largest.
    tolerance: f32,
    /// Tokens of a span at most.
    chunk: usize,
    blocks: BlockStore,
    sequences: Vec<(BlockTable, Vec<u32>)>,
}

impl Twins {
    /// The CPU's caches.
    fn host(seed: u64, attention: Attention, dtype: KvDtype) -> Self {
        let host = HostKv::new([&attention; LAYERS].into_iter(), BLOCKS, dtype);
        // Both store the same codes, so that no dtype needs more than the order of sums does.
        let blocks = BLOCKS;
        let (chunk, tolerance) = (3 * BLOCK_TOKENS / 2, 2e-5);
        let graph = GraphKv::new(LAYERS, blocks, Some(dtype));
        let caches: [Box<dyn KvCache>; 2] = [Box::new(host), Box::new(graph)];
        Self::new(seed, attention, DeviceChoice::Cpu, (caches, blocks), (Dtype::Float32, tolerance, chunk))
    }

    /// Those of a GPU, for rows of `dtype`.
    fn cuda(seed: u64, attention: Attention, kernels: &Rc<CudaKernels>, dtype: Dtype) -> Self {
        let blocks = 10 * BLOCKS;
        // Weights are rounded to the dtype before they multiply values, and the sum is.
        let tolerance = if dtype == Dtype::Bfloat16 { 1e-2 } else { 1.5e-3 };
        let cuda = CudaKv::new(Rc::clone(kernels), LAYERS, blocks);
        let caches: [Box<dyn KvCache>; 2] = [Box::new(cuda), Box::new(GraphKv::new(LAYERS, blocks, None))];
        Self::new(
            seed,
            attention,
            DeviceChoice::Default,
            (caches, blocks),
            (dtype, tolerance, 12 * BLOCK_TOKENS),
        )
    }

    fn new(
        seed: u64,
        attention: Attention,
        device: DeviceChoice,
        (caches, blocks): ([Box<dyn KvCache>; 2], usize),
        (dtype, tolerance, chunk): (Dtype, f32, usize),
    ) -> Self {
        Device::choose(device).expect("a device").make_default().expect("it can be used");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let heads = attention.heads;
        let sinks = attention.sinks.as_ref().map(|_| normal(&mut random, &[heads]));
        let (blocks, sequences) = (BlockStore::new(blocks), Vec::new());
        Self { random, attention, sinks, caches, dtype, tolerance, chunk, blocks, sequences }
    }

    /// Begins, forks and ends sequences, then computes a ragged step of them.
    fn step(&mut self) {
        if self.sequences.len() < 2 || self.sequences.len() < 5 && self.random.random_bool(0.5) {
            self.begin();
        } else if self.random.random_bool(0.3) {
            let at = self.random.random_range(0..self.sequences.len());
            let (table, _) = self.sequences.swap_remove(at);
            self.blocks.release(table);
        }
        let (mut spans, mut copies) = (Vec::new(), Vec::new());
        for at in 0..self.sequences.len() {
            if self.random.random_bool(0.8) {
                spans.extend(self.span(at, &mut copies));
            }
        }
        if spans.is_empty() {
            return;
        }
        self.compare(StepPlan { spans, copies });
        for (table, tokens) in &mut self.sequences {
            self.blocks.publish(table, tokens);
        }
    }

    /// A sequence of its own, a fork, or one that shares a cached prefix.
    fn begin(&mut self) {
        let parent = (!self.sequences.is_empty()).then(|| self.random.random_range(0..self.sequences.len()));
        let new = match parent {
            Some(at) if self.random.random_bool(0.4) => {
                let (table, tokens) = &mut self.sequences[at];
                (self.blocks.fork(table).expect("there are no states"), tokens.clone())
            }
            Some(at) if self.random.random_bool(0.7) => {
                let tokens = [self.sequences[at].1.as_slice(), &[0]].concat();
                let table = self.blocks.attach(&tokens);
                let cached = table.tokens();
                (table, tokens[..cached].to_vec())
            }
            _ => (BlockTable::default(), Vec::new()),
        };
        self.sequences.push(new);
    }

    /// A chunk or a single token of a sequence, where there is room.
    fn span(&mut self, at: usize, copies: &mut Vec<BlockCopy>) -> Option<Span> {
        let most = [1, 8, self.chunk][self.random.random_range(0..3)];
        let count = self.random.random_range(1..=most);
        let (table, tokens) = &mut self.sequences[at];
        let start = table.tokens();
        copies.extend(self.blocks.grow(table, count).ok()?);
        let new: Vec<u32> = (0..count).map(|_| self.random.random()).collect();
        tokens.extend(&new);
        let sequence = SequenceId(at as u64);
        let new = new.into_iter().map(Token::Known).collect();
        Some(Span { sequence, tokens: new, start, samples: 1, blocks: table.shared(), state: None })
    }

    fn compare(&mut self, plan: StepPlan) {
        let Attention { heads, kv_heads, head_dim, .. } = self.attention;
        let rule = AttentionRule { shape: &self.attention, sinks: self.sinks.as_ref() };
        let step = StepInputs::new(plan, None).expect("inputs");
        self.caches.iter_mut().for_each(|cache| cache.begin(&step).expect("a step begins"));
        for layer in 0..LAYERS {
            let mut rows = |heads| normal(&mut self.random, &[step.len, heads, head_dim]);
            let (query, key, value) = (rows(heads), rows(kv_heads), rows(kv_heads));
            let given = |dtype| [&query, &key, &value].map(|x| x.astype(self.dtype)?.astype(dtype));
            let [fast, slow] = [(0, self.dtype), (1, Dtype::Float32)].map(|(cache, dtype)| {
                let [query, key, value] = given(dtype).map(|x| x.expect("rows"));
                let out = self.caches[cache].attend(layer, rule, [&query, &key, &value], &step);
                let out = out.and_then(|out| out.astype(Dtype::Float32)?.to_vec::<f32>());
                out.expect("it attends")
            });
            let worst = fast.iter().zip(&slow).map(|(f, s)| (f - s).abs()).fold(0.0, f32::max);
            let largest = slow.iter().fold(1.0, |largest: f32, value| largest.max(value.abs()));
            let near = fast.len() == slow.len() && worst < self.tolerance * largest;
            assert!(near, "differ by {worst} of {largest} in {:?}", step.plan);
            assert!(fast.iter().chain(&slow).all(|value| value.is_finite()));
        }
    }
}

fn normal(random: &mut ChaCha8Rng, shape: &[usize]) -> Array {
    let count = shape.iter().product();
    // Sum of uniforms: near enough.
    let values: Vec<f32> =
        (0..count).map(|_| (0..4).map(|_| random.random_range(-1.0f32..1.0)).sum()).collect();
    let shape: Vec<i32> = shape.iter().map(|&size| size as i32).collect();
    Array::from_slice(&values, &shape).expect("an array")
}

fn attention(heads: [usize; 2], head_dim: usize) -> Attention {
    let linear = || Linear {
        name: String::new(),
        inputs: 0,
        outputs: 0,
        bias: false,
        cut: Cut::Replicated,
        share: None,
    };
    Attention {
        heads: heads[0],
        kv_heads: heads[1],
        head_dim,
        scale: 0.3,
        query: linear(),
        key: linear(),
        value: linear(),
        output: linear(),
        query_norm: None,
        key_norm: None,
        rope: Rope { dims: 0, traditional: false, inverse_frequencies: Vec::new(), magnitude: 1.0 },
        window: None,
        soft_cap: None,
        sinks: None,
        share: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn host_and_graph_attend_alike_over_shared_blocks(
        seed: u64,
        heads in prop::sample::select(vec![[4usize, 4], [6, 2], [8, 1]]),
        head_dim in prop::sample::select(vec![8usize, 64]),
        window in prop::option::of(1usize..90),
        soft_cap in prop::option::of(2.0f32..30.0),
        sinks: bool,
        dtype in prop::sample::select(KvDtype::ALL.as_slice()),
    ) {
        let sinks = sinks.then(String::new);
        let mut twins = Twins::host(seed, Attention { window, soft_cap, sinks, ..attention(heads, head_dim) }, dtype);
        (0..10).for_each(|_| twins.step());
    }
}

/// Steps of random sequences; every rule is compiled anew, which takes seconds.
fn cuda_agrees(dtype: Dtype, attention: &Attention) {
    Device::choose(DeviceChoice::Default).expect("a GPU").make_default().expect("it can be used");
    let kernels = Rc::new(CudaKernels::new());
    for seed in 0..3 {
        let mut twins = Twins::cuda(seed, attention.clone(), &kernels, dtype);
        (0..10).for_each(|_| twins.step());
    }
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn cuda_and_graph_attend_alike_over_shared_blocks() {
    cuda_agrees(Dtype::Bfloat16, &attention([8, 2], 128));
    cuda_agrees(Dtype::Float16, &attention([9, 3], 64));
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn cuda_and_graph_agree_where_all_heads_share_one_key_head_and_see_a_window_and_sinks() {
    let sinks = Some(String::new());
    cuda_agrees(Dtype::Bfloat16, &Attention { window: Some(70), sinks, ..attention([8, 1], 64) });
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn cuda_and_graph_agree_where_scores_are_capped() {
    let capped = |heads, head_dim| Attention { soft_cap: Some(5.0), ..attention(heads, head_dim) };
    cuda_agrees(Dtype::Float16, &Attention { window: Some(300), ..capped([4, 4], 128) });
    cuda_agrees(Dtype::Bfloat16, &Attention { sinks: Some(String::new()), ..capped([6, 2], 64) });
}
