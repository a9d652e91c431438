//! Each kernel beside the MLX operations it stands for, on random arrays. They need an NVIDIA device:
//! `bench/gpu/README.md` says how to run them on one.

use mlxcel_mlx_bridge::{Array, Dtype, Quantized, QuantizedLayout, random};

use super::product::{self, Epilogue};
use super::{Kernels, TiledMatrix, draw, pointwise};
use crate::SamplingParams;
use crate::api::DeviceChoice;
use crate::decoder::arithmetic::Arithmetic;
use crate::decoder::graph::GraphArithmetic;
use crate::decoder::inputs::StepInputs;
use crate::decoder::residual::Residual;
use crate::decoder::weights::{AttentionWeights, LinearWeights, MatrixWeights, NormWeights, RopeWeights};
use crate::decoder::{Activation, Attention, Cut, Linear, Rope};
use crate::device::Device;
use crate::sampling::{Draw, Sampler};
use crate::schedule::{SequenceId, Span, StepPlan, Token};

const DTYPES: [Dtype; 2] = [Dtype::Bfloat16, Dtype::Float16];

fn kernels() -> Kernels {
    Device::choose(DeviceChoice::Default).expect("a GPU").make_default().expect("it can be used");
    Kernels::new()
}

fn normal(shape: &[i32], dtype: Dtype) -> Array {
    random::normal(shape, Dtype::Float32, None).and_then(|x| x.astype(dtype)).expect("random numbers")
}

/// ‖a − b‖ / ‖b‖ in f32.
fn distance(a: &Array, b: &Array) -> f32 {
    let values = |x: &Array| x.astype(Dtype::Float32).and_then(|x| x.to_vec::<f32>()).expect("it evaluates");
    let (a, b) = (values(a), values(b));
    assert_eq!(a.len(), b.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let apart: f64 = a.iter().zip(&b).map(|(a, b)| square(a - b)).sum();
    let length: f64 = b.iter().map(|&b| square(b)).sum();
    (apart / length).sqrt() as f32
}

/// Roundings of a result or two to the dtype.
fn tolerance(dtype: Dtype) -> f32 {
    if dtype == Dtype::Bfloat16 { 8e-3 } else { 1e-3 }
}

/// A random matrix in tiles, and the same in f32.
fn matrix(kernels: &Kernels, shape: [i32; 2], layout: QuantizedLayout, dtype: Dtype) -> (TiledMatrix, Array) {
    let quantized = Quantized::quantize(&normal(&shape, dtype), layout).expect("it quantises");
    let wide = |x: &Array| x.astype(Dtype::Float32).expect("f32");
    let plain = Quantized {
        weight: quantized.weight.clone(),
        scales: wide(&quantized.scales),
        biases: quantized.biases.as_ref().map(wide),
        layout,
    };
    let tiled = TiledMatrix::new(kernels, &quantized, dtype).expect("tiles").expect("a layout it takes");
    (tiled, plain.dequantize().expect("numbers"))
}

fn product_of(x: &Array, plain: &Array) -> Array {
    let x = x.astype(Dtype::Float32).expect("f32");
    plain.transpose(&[1, 0]).and_then(|w| x.matmul(&w)).expect("a product")
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn products_with_tiles_are_those_with_the_matrices() {
    let kernels = kernels();
    for dtype in DTYPES {
        for (bits, group) in [4, 8].into_iter().flat_map(|bits| [32, 64, 128].map(|group| (bits, group))) {
            let layout = QuantizedLayout::affine(bits, group);
            let inputs = if group == 128 { 2176 + 128 * (bits - 4) } else { 1088 };
            let made = [192, 64, 336].map(|outputs| matrix(&kernels, [outputs, inputs], layout, dtype));
            let tiled = made.each_ref().map(|(tiled, _)| tiled);
            let plain = Array::concatenate(&made.each_ref().map(|(_, plain)| plain), 0).expect("one matrix");
            // Every instance is compiled anew, which takes a second: all of them for one layout, some for the others.
            let whole = (dtype, bits, group) == (Dtype::Bfloat16, 4, 64);
            let rows: &[i32] = if whole { &[1, 2, 8, 9, 33, 64, 65, 130] } else { &[3, 130] };
            for &rows in rows {
                let x = normal(&[rows, inputs], dtype);
                let all = product::multiply(&kernels, &x, &tiled, Epilogue::Plain).expect("a product");
                let apart = distance(&all, &product_of(&x, &plain));
                assert!(apart < tolerance(dtype), "{rows} rows, {layout:?} of {dtype}: {apart}");
                let one = product::multiply(&kernels, &x, &tiled[2..], Epilogue::Plain).expect("a product");
                let apart = distance(&one, &product_of(&x, &made[2].1));
                assert!(apart < tolerance(dtype), "alone, {rows} rows, {layout:?} of {dtype}: {apart}");
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn gated_products_are_gates_of_products() {
    let kernels = kernels();
    for dtype in DTYPES {
        let layout = QuantizedLayout::affine(4, 64);
        let made = [(); 2].map(|()| matrix(&kernels, [336, 576], layout, dtype));
        for rows in [1, 5, 16, 64, 100] {
            let x = normal(&[rows, 576], dtype);
            let tiled = made.each_ref().map(|(tiled, _)| tiled);
            let fast = product::multiply(&kernels, &x, &tiled, Epilogue::Gated).expect("a product");
            let [gate, up] = made.each_ref().map(|(_, plain)| product_of(&x, plain));
            let slow = gate.sigmoid().and_then(|s| gate.multiply(&s)?.multiply(&up)).expect("a gate");
            let apart = distance(&fast, &slow);
            assert!(apart < 2.0 * tolerance(dtype), "{rows} rows of {dtype}: {apart}");
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn products_that_norm_their_rows_are_those_of_normed_rows() {
    let kernels = kernels();
    let (width, outputs) = (1088, 336);
    for dtype in DTYPES {
        let layout = QuantizedLayout::affine(4, 64);
        let made = [(); 2].map(|()| matrix(&kernels, [outputs, width], layout, dtype).0);
        let norm = NormWeights { weight: normal(&[width], dtype), epsilon: 1e-5 };
        let epilogues = [Epilogue::Plain, Epilogue::Gated];
        for (rows, adds, epilogue) in [1, 2, 4].into_iter().flat_map(|rows| {
            [false, true].into_iter().flat_map(move |adds| epilogues.map(|epilogue| (rows, adds, epilogue)))
        }) {
            let (hidden, delta) = (normal(&[rows, width], dtype), normal(&[rows, width], dtype));
            let sum = if adds { hidden.add(&delta).expect("a sum") } else { hidden.clone() };
            let normed = GraphArithmetic { dtype }.norm(&sum, &norm).expect("MLX's norm");
            let slow = product::multiply(&kernels, &normed, &made.each_ref(), epilogue).expect("a product");
            let mut residual = Residual { hidden, delta: adds.then_some(delta) };
            let fast = product::multiply_normed(&kernels, &mut residual, &norm, &made.each_ref(), epilogue)
                .expect("a product")
                .expect("so few rows are normed on the way");
            let apart = distance(&fast, &slow);
            assert!(apart < 2.0 * tolerance(dtype), "{epilogue:?} of {rows} rows of {dtype}: {apart}");
            assert!(residual.delta.is_none(), "what was pending is added");
            assert_eq!(distance(&residual.hidden, &sum), 0.0, "the sum of {rows} rows of {dtype}");
        }
        let mut many = Residual { hidden: normal(&[5, width], dtype), delta: None };
        let left = product::multiply_normed(&kernels, &mut many, &norm, &made.each_ref(), Epilogue::Plain);
        assert!(left.expect("it is left to others").is_none(), "five rows are normed once");
    }
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn drawn_tokens_are_those_of_the_sampler() {
    let kernels = kernels();
    for (dtype, vocab, spread) in DTYPES.into_iter().flat_map(|dtype| {
        [(64, 1.0f32), (49_152, 0.3), (128_256, 3.0)].map(|(vocab, spread)| (dtype, vocab, spread))
    }) {
        let parameters = sampling_parameters();
        let rows = parameters.len() as i32;
        let spread = Array::from_slice(&[spread], &[1]).and_then(|x| x.astype(dtype)).expect("a number");
        let logits = normal(&[rows, vocab], dtype).multiply(&spread).expect("logits");
        let samplers = parameters.iter().map(|params| Sampler::new(params, vocab as usize).expect("valid"));
        let mut samplers: Vec<Sampler> = samplers.collect();
        let values: Vec<f32> = logits.astype(Dtype::Float32).and_then(|l| l.to_vec()).expect("numbers");
        for index in 0..40 {
            let draws: Vec<Draw> = samplers.iter().map(|it| it.draw(index).expect("plain")).collect();
            let drawn = draw(&kernels, &logits, &draws).expect("it runs").expect("a kernel takes them");
            let ids: Vec<u32> = drawn.ids.to_vec().expect("ids");
            let flags = vec![0; rows as usize];
            assert_eq!(drawn.told.to_vec::<u32>().expect("ids and flags"), [&ids[..], &flags].concat());
            for ((sampler, row), (id, params)) in
                samplers.iter_mut().zip(values.chunks(vocab as usize)).zip(ids.iter().zip(&parameters))
            {
                let chosen = sampler.sample(&mut row.to_vec()).expect("a token");
                sampler.accept(chosen);
                assert_eq!(*id, chosen, "token {index} of {vocab} in {dtype} by {params:?}");
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn rows_that_cannot_be_drawn_from_are_told() {
    let kernels = kernels();
    let rows = [[0.5; 64], [f32::NAN; 64], [f32::NEG_INFINITY; 64], [f32::INFINITY; 64]];
    let logits = Array::from_slice(&rows.concat(), &[4, 64]).and_then(|x| x.astype(Dtype::Bfloat16));
    let draws = [Draw { temperature: 1.0, ..Draw::GREEDY }; 4];
    let drawn = draw(&kernels, &logits.expect("logits"), &draws).expect("it runs").expect("a kernel");
    let told: Vec<u32> = drawn.told.to_vec().expect("ids and flags");
    let (ids, failed) = told.split_at(4);
    assert_eq!(failed.iter().map(|&failed| failed != 0).collect::<Vec<_>>(), [false, true, true, true]);
    assert_eq!(ids[1..], [0, 0, 0]);
}

/// Every filter alone, at its edges, and with the others.
fn sampling_parameters() -> Vec<SamplingParams> {
    let base = SamplingParams { temperature: 1.0, seed: Some(7), ..SamplingParams::default() };
    let with = |change: fn(&mut SamplingParams)| {
        let mut params = base.clone();
        change(&mut params);
        params
    };
    vec![
        with(|p| p.temperature = 0.0),
        base.clone(),
        with(|p| p.temperature = 0.3),
        with(|p| p.top_k = 1),
        with(|p| p.top_k = 5),
        with(|p| p.top_k = 40),
        with(|p| p.top_k = 3000),
        with(|p| p.top_p = 0.1),
        with(|p| p.top_p = 0.9),
        with(|p| p.top_p = 0.9999),
        with(|p| p.min_p = 0.05),
        with(|p| p.min_p = 1.0),
        with(|p| (p.top_k, p.top_p) = (50, 0.8)),
        with(|p| (p.top_k, p.top_p, p.min_p) = (20, 0.95, 0.1)),
        with(|p| (p.temperature, p.top_p, p.min_p) = (2.5, 0.7, 0.02)),
    ]
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn rows_taken_from_tiles_are_the_matrix_s_rows() {
    let kernels = kernels();
    for (bits, group) in [(4, 32), (4, 64), (8, 64), (8, 128)] {
        let (tiled, plain) =
            matrix(&kernels, [320, 1152], QuantizedLayout::affine(bits, group), Dtype::Bfloat16);
        let ids = Array::from_slice(&[0u32, 7, 8, 15, 16, 319, 100], &[7]).expect("ids");
        let apart = distance(&tiled.take(&kernels, &ids).expect("rows"), &plain.take(&ids, 0).expect("rows"));
        assert!(apart < tolerance(Dtype::Bfloat16), "{bits} bits in groups of {group}: {apart}");
    }
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn sums_norms_and_gates_are_mlx_s() {
    let kernels = kernels();
    for dtype in DTYPES {
        let graph = GraphArithmetic { dtype };
        for (rows, width) in [(1, 576), (3, 4096), (130, 4104), (2, 16384)] {
            let (x, delta) = (normal(&[rows, width], dtype), normal(&[rows, width], dtype));
            let norm = NormWeights { weight: normal(&[width], dtype), epsilon: 1e-5 };
            let (sum, normed) =
                pointwise::add_norm(&kernels, &x, &delta, &norm).expect("a kernel").expect("it runs");
            let (slow_sum, slow_normed) = graph.add_norm(&x, &delta, &norm).expect("MLX's");
            assert!(distance(&sum, &slow_sum) < 1e-6, "the sum of {rows} rows of {width} {dtype}");
            let apart = distance(&normed, &slow_normed);
            assert!(apart < tolerance(dtype), "the norm of {rows} rows of {width} {dtype}: {apart}");
            let fast = pointwise::silu_multiply(&kernels, &x, &delta).expect("a kernel").expect("it runs");
            let apart = distance(&fast, &graph.gated(&x, &delta, Activation::Silu).expect("MLX's"));
            assert!(apart < 2.0 * tolerance(dtype), "the gate of {rows} rows of {width} {dtype}: {apart}");
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn split_and_rotated_heads_are_mlx_s() {
    let kernels = kernels();
    for (head_dim, dims, traditional, norms, magnitude) in [
        (64, 64, false, false, 1.0),
        (128, 128, true, true, 1.0),
        (80, 32, false, true, 1.25),
        (96, 96, false, false, 1.0),
    ] {
        let dtype = Dtype::Bfloat16;
        let graph = GraphArithmetic { dtype };
        let attention = attention(head_dim, (dims, traditional, magnitude), norms.then_some(dtype));
        let plan = StepPlan {
            spans: vec![Span {
                sequence: SequenceId(0),
                tokens: vec![Token::Known(1); 7],
                start: 4090,
                samples: 1,
                blocks: std::sync::Arc::default(),
                state: None,
            }],
            copies: Vec::new(),
        };
        let step = StepInputs::new(plan, None).expect("inputs");
        let (heads, kv) = (6, 2);
        let width = head_dim as i32;
        let x = normal(&[7, (heads + 2 * kv) * width], dtype);
        let fast = pointwise::rope_split(&kernels, &x, &attention, &step).expect("it runs");
        let part = |from: i32, count: i32| {
            x.slice(&[0, from * width], &[7, (from + count) * width])
                .and_then(|x| x.reshape(&[7, count, width]))
                .expect("a part")
        };
        let rotated = |x: Array, norm: &Option<NormWeights>| {
            let x = norm.as_ref().map_or(Ok(x.clone()), |norm| graph.norm(&x, norm)).expect("a norm");
            graph.rope(&x, &step, &attention.rope).expect("MLX's")
        };
        let slow = [
            rotated(part(0, heads), &attention.query_norm),
            rotated(part(heads, kv), &attention.key_norm),
            part(heads + kv, kv),
        ];
        for (fast, slow) in fast.iter().zip(&slow) {
            let apart = distance(fast, slow);
            assert!(
                fast.shape() == slow.shape() && apart < tolerance(dtype),
                "{head_dim} wide, {dims} turned: {apart}"
            );
        }
    }
}

fn attention(
    head_dim: usize,
    (dims, traditional, magnitude): (usize, bool, f32),
    norms: Option<Dtype>,
) -> AttentionWeights {
    let linear = || Linear {
        name: String::new(),
        inputs: 1,
        outputs: 1,
        bias: false,
        cut: Cut::Replicated,
        share: None,
    };
    let weights =
        || LinearWeights { matrix: MatrixWeights::Dense(normal(&[1, 1], Dtype::Float32)), bias: None };
    let norm = || norms.map(|dtype| NormWeights { weight: normal(&[head_dim as i32], dtype), epsilon: 1e-6 });
    let inverse_frequencies: Vec<f32> =
        (0..dims / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / dims as f32)).collect();
    let periods: Vec<f32> = inverse_frequencies.iter().map(|f| 1.0 / f).collect();
    let rope = Rope { dims, traditional, inverse_frequencies, magnitude };
    AttentionWeights {
        query: weights(),
        key: weights(),
        value: weights(),
        output: weights(),
        query_norm: norm(),
        key_norm: norm(),
        sinks: None,
        rope: RopeWeights {
            rope: std::sync::Arc::new(rope.clone()),
            periods: Array::from_slice(&periods, &[periods.len() as i32]).expect("periods"),
        },
        shape: Attention {
            heads: 6,
            kv_heads: 2,
            head_dim,
            scale: 1.0,
            query: linear(),
            key: linear(),
            value: linear(),
            output: linear(),
            query_norm: None,
            key_norm: None,
            rope,
            window: None,
            soft_cap: None,
            sinks: None,
            share: None,
        },
    }
}
