//! Linear layers against `f64`, for every storage, instruction set and both ways to run.

mod reference;

use half::{bf16, f16};
use mlxcel_kernels::{
    Affine, FEW_ROWS, Floats, Projection, ShapeError, Weight, dequantize, linear, linears, quantize,
};
use proptest::prelude::*;
use reference::{assert_close, on_every_level, rounded_to_16_bits, uniform};

/// Activations as few rows multiply them with these weights.
fn rounded(x: &[f32], rows: usize, weight: &Weight<'_>) -> Vec<f32> {
    let Weight::Affine(Affine { bits: 2 | 4 | 8, group, .. }) = *weight else { return x.to_vec() };
    if rows > FEW_ROWS {
        return x.to_vec();
    }
    rounded_to_16_bits(x, group)
}

/// Checks one product on every level, against the weights as they dequantise.
fn check(weight: &Weight<'_>, [rows, k, n]: [usize; 3], with_bias: bool, what: &str) {
    let x = uniform(7, rows * k, -1.0..1.0);
    let bias = with_bias.then(|| uniform(8, n, -1.0..1.0));
    let mut wide = vec![0.0; n * k];
    dequantize(weight, n, k, 0..n, &mut wide).expect("a whole weight");
    let expected = reference::linear(&rounded(&x, rows, weight), &wide, bias.as_deref(), k, n);
    on_every_level(|level| {
        let mut out = vec![f32::NAN; rows * n];
        linear(&x, rows, k, weight, n, bias.as_deref(), &mut out).expect("matching sizes");
        assert_close(&out, &expected, 2e-6, &format!("{what} {rows}x{k}x{n} {level:?}"));
    });
}

/// Every storage of scales in turn.
fn check_affine(bits: u32, group: usize, shape: [usize; 3], with_bias: bool) {
    let [_, k, n] = shape;
    let weight = quantize(&uniform(9, n * k, -1.0..1.0), n, k, bits, group).expect("whole groups");
    let narrow = |values: &[f32]| values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>();
    let brain = |values: &[f32]| values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>();
    let (s16, b16) = (narrow(&weight.scales), narrow(&weight.biases));
    let (sb, bb) = (brain(&weight.scales), brain(&weight.biases));
    let storages = [
        (Floats::F32(&weight.scales), Floats::F32(&weight.biases)),
        (Floats::F16(&s16), Floats::F16(&b16)),
        (Floats::Bf16(&sb), Floats::Bf16(&bb)),
    ];
    for (scales, biases) in storages {
        let affine = Affine { scales, biases, ..weight.as_affine() };
        check(&Weight::Affine(affine), shape, with_bias, &format!("{bits} bits, group {group}"));
    }
}

#[test]
fn every_affine_layout_multiplies() {
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            for rows in [1, 3, 9, 40] {
                check_affine(bits, group, [rows, 3 * group, 7], rows == 3);
            }
        }
    }
}

#[test]
fn every_number_of_rows_multiplies() {
    for rows in 0..=70 {
        check_affine(4, 32, [rows, 96, 13], true);
        check_affine(8, 64, [rows, 64, 50], false);
    }
}

#[test]
fn rows_longer_than_a_block_multiply() {
    check_affine(4, 64, [17, 2432, 100], true);
    check_affine(4, 32, [2, 2432, 100], true);
    let w = uniform(3, 1700 * 11, -1.0..1.0);
    check(&Weight::Dense(Floats::F32(&w)), [33, 1700, 11], true, "f32");
}

#[test]
fn work_for_many_tasks_multiplies() {
    check_affine(4, 32, [1, 576, 1536], false);
    check_affine(8, 32, [2, 576, 3000], true);
    check_affine(4, 32, [64, 576, 600], true);
}

#[test]
fn a_row_is_the_same_alone_and_among_others() {
    for (bits, group) in [(4, 32), (4, 128), (8, 64), (2, 32), (6, 64)] {
        let (k, n) = (5 * group, 77);
        let weight = quantize(&uniform(9, n * k, -1.0..1.0), n, k, bits, group).expect("whole groups");
        let weight = Weight::Affine(weight.as_affine());
        let x = uniform(4, FEW_ROWS * k, -3.0..3.0);
        on_every_level(|level| {
            let run = |x: &[f32], rows| {
                let mut out = vec![f32::NAN; rows * n];
                linear(x, rows, k, &weight, n, None, &mut out).expect("matching sizes");
                out
            };
            let alone: Vec<f32> = x.chunks(k).flat_map(|row| run(row, 1)).collect();
            for rows in 2..=FEW_ROWS {
                assert_eq!(
                    run(&x[..rows * k], rows),
                    alone[..rows * n],
                    "{bits} bits, {rows} rows, {level:?}"
                );
            }
        });
    }
}

#[test]
fn several_products_are_each_what_they_are_alone() {
    let (k, sizes) = (192, [70, 0, 9, 300]);
    let weight =
        |n: usize, bits| quantize(&uniform(9, n * k, -1.0..1.0), n, k, bits, 32).expect("whole groups");
    let weights: Vec<_> = sizes.into_iter().zip([4, 4, 8, 6]).map(|(n, bits)| weight(n, bits)).collect();
    let bias = uniform(8, 9, -1.0..1.0);
    for rows in [1, 5, 30] {
        let x = uniform(7, rows * k, -1.0..1.0);
        let outputs =
            |at: usize| (sizes[at], (at == 2).then_some(&bias[..]), vec![f32::NAN; rows * sizes[at]]);
        let (mut together, mut alone) = ([0, 1, 2, 3].map(outputs), [0, 1, 2, 3].map(outputs));
        let mut parts: Vec<_> = together
            .iter_mut()
            .zip(&weights)
            .map(|((outputs, bias, out), weight)| Projection {
                weight: Weight::Affine(weight.as_affine()),
                outputs: *outputs,
                bias: *bias,
                out,
            })
            .collect();
        linears(&x, rows, k, &mut parts).expect("matching sizes");
        for ((n, bias, out), weight) in alone.iter_mut().zip(&weights) {
            linear(&x, rows, k, &Weight::Affine(weight.as_affine()), *n, *bias, out).expect("matching sizes");
        }
        assert_eq!(together, alone, "{rows} rows");
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    let weight = quantize(&uniform(9, 3 * 256, -1.0..1.0), 3, 256, 4, 32).expect("whole groups");
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = uniform(7, 256, -1.0..1.0);
        x[77] = poison;
        on_every_level(|level| {
            let mut out = [0.0; 3];
            linear(&x, 1, 256, &Weight::Affine(weight.as_affine()), 3, None, &mut out)
                .expect("matching sizes");
            assert!(out.iter().all(|value| !value.is_finite()), "{poison} gives {out:?} with {level:?}");
        });
    }
}

#[test]
fn activations_of_zero_and_next_to_it_multiply() {
    let weight = quantize(&uniform(9, 3 * 64, -1.0..1.0), 3, 64, 8, 32).expect("whole groups");
    for tiny in [0.0, f32::MIN_POSITIVE / 2.0, f32::MIN_POSITIVE * 40_000.0] {
        let mut out = [f32::NAN; 3];
        linear(&[tiny; 64], 1, 64, &Weight::Affine(weight.as_affine()), 3, None, &mut out)
            .expect("matching sizes");
        assert!(out.iter().all(|value| value.abs() <= 64.0 * tiny), "{tiny:e} gives {out:?}");
    }
}

#[test]
fn a_width_of_zero_leaves_the_bias() {
    for rows in [1, 20] {
        let mut out = vec![f32::NAN; rows * 2];
        let weight = Weight::Dense(Floats::F32(&[]));
        linear(&[], rows, 0, &weight, 2, Some(&[1.0, 2.0]), &mut out).expect("matching sizes");
        assert_eq!(out, [1.0, 2.0].repeat(rows));
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let weight = quantize(&[0.5; 128], 2, 64, 4, 32).expect("whole groups");
    let affine = weight.as_affine();
    let mut out = [0.0; 2];
    let mut run = |affine, k, x: &[f32], bias: Option<&[f32]>| {
        linear(x, 1, k, &Weight::Affine(affine), 2, bias, &mut out).expect_err("a wrong size")
    };
    let x = [1.0; 64];
    assert!(matches!(run(affine, 64, &x[1..], None), ShapeError::Length { what: "input", .. }));
    assert!(matches!(run(affine, 64, &x, Some(&[1.0])), ShapeError::Length { what: "bias", .. }));
    assert!(matches!(run(affine, 65, &x, None), ShapeError::Multiple { .. }));
    assert!(matches!(run(Affine { bits: 7, ..affine }, 64, &x, None), ShapeError::Bits(7)));
    assert!(matches!(run(Affine { group: 16, ..affine }, 64, &x, None), ShapeError::Group(16)));
    let short = Affine { scales: Floats::F32(&[1.0]), ..affine };
    assert!(matches!(run(short, 64, &x, None), ShapeError::Length { what: "scales", .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn dense_weights_of_any_shape_multiply(rows in 0usize..40, k in 1usize..150, n in 0usize..60) {
        let w = uniform(5, n * k, -1.0..1.0);
        let half: Vec<_> = w.iter().map(|&v| f16::from_f32(v)).collect();
        let brain: Vec<_> = w.iter().map(|&v| bf16::from_f32(v)).collect();
        check(&Weight::Dense(Floats::F32(&w)), [rows, k, n], true, "f32");
        check(&Weight::Dense(Floats::F16(&half)), [rows, k, n], false, "f16");
        check(&Weight::Dense(Floats::Bf16(&brain)), [rows, k, n], false, "bf16");
    }

    #[test]
    fn affine_weights_of_any_shape_multiply(
        rows in 1usize..40,
        groups in 1usize..12,
        n in 1usize..60,
        bits in prop::sample::select(vec![2u32, 3, 4, 5, 6, 8]),
        group in prop::sample::select(vec![32usize, 64, 128]),
    ) {
        check_affine(bits, group, [rows, groups * group, n], true);
    }
}
