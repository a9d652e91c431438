//! MXFP4 against MLX's own numbers and a reading of the specification.

mod mlx_values;
mod reference;

use mlx_values::MXFP4;
use mlxcel_kernels::{
    FEW_ROWS, Mxfp4, Projection, ShapeError, Weight, dequantize, embed, linear, linears, quantize,
    quantize_mxfp4,
};
use proptest::prelude::*;
use reference::{assert_close, on_every_level, rounded_to_16_bits, uniform};

/// What a code and a scale are worth, by the specification.
fn value(code: u32, scale: u8) -> f32 {
    let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][code as usize & 7];
    let signed = if code & 8 == 0 { size } else { -size };
    (signed * f64::from(i32::from(scale) - 127).exp2()) as f32
}

fn values(packed: &[u32], scales: &[u8]) -> Vec<f32> {
    (0..packed.len() * 8).map(|i| value(packed[i / 8] >> (4 * (i % 8)) & 15, scales[i / 32])).collect()
}

/// The matrix of `mlx_values/generate.py`.
fn matrix() -> Vec<f32> {
    let mixed = (0..256u64).map(|i| (((i * 2_654_435_761) % (1 << 32)) >> 8) as f32 / 8_388_608.0 - 1.0);
    let rows = mixed.enumerate().map(|(i, v)| if i < 128 { v } else { v.abs() + 0.5 });
    rows.chain([0.3; 128]).chain([0.0; 128]).collect()
}

/// Any words, and scales of the sizes weights have.
fn random(seed: u64, n: usize, k: usize) -> (Vec<u32>, Vec<u8>) {
    let numbers = uniform(seed, n * k / 8, 0.0..1.0);
    let packed = numbers.iter().map(|v| v.to_bits().wrapping_mul(0x9e37_79b9)).collect();
    let scales = uniform(seed + 1, n * k / 32, 110.0..130.0).iter().map(|&v| v as u8).collect();
    (packed, scales)
}

/// Checks one product on every level.
fn check([rows, k, n]: [usize; 3], with_bias: bool) {
    let (packed, scales) = random(9, n, k);
    let weight = Weight::Mxfp4(Mxfp4 { packed: &packed, scales: &scales });
    let x = uniform(7, rows * k, -1.0..1.0);
    let bias = with_bias.then(|| uniform(8, n, -1.0..1.0));
    let rounded = if rows <= FEW_ROWS { rounded_to_16_bits(&x, 32) } else { x.clone() };
    let expected = reference::linear(&rounded, &values(&packed, &scales), bias.as_deref(), k, n);
    on_every_level(|level| {
        let mut out = vec![f32::NAN; rows * n];
        linear(&x, rows, k, &weight, n, bias.as_deref(), &mut out).expect("matching sizes");
        assert_close(&out, &expected, 2e-6, &format!("{rows}x{k}x{n} {level:?}"));
    });
}

#[test]
fn quantising_equals_mlx_bit_for_bit() {
    let ours = quantize_mxfp4(&matrix(), 4, 128).expect("whole groups");
    assert_eq!((&ours.packed[..], &ours.scales[..]), MXFP4);
}

#[test]
fn every_code_with_every_scale_is_what_the_specification_says() {
    let packed = [0x7654_3210, 0xfedc_ba98, 0x0f1e_2d3c, 0x8765_4321].repeat(255);
    let scales: Vec<u8> = (0..255).collect();
    let expected = values(&packed, &scales);
    on_every_level(|level| {
        let mut out = vec![f32::NAN; 255 * 32];
        let weight = Weight::Mxfp4(Mxfp4 { packed: &packed, scales: &scales });
        dequantize(&weight, 255, 32, 0..255, &mut out).expect("a whole weight");
        assert_eq!(out, expected, "{level:?}");
    });
}

#[test]
fn every_code_multiplies_with_every_scale_whose_steps_are_normal_floats() {
    let packed = [0x7654_3210, 0xfedc_ba98, 0x0f1e_2d3c, 0x8765_4321].repeat(180);
    let scales: Vec<u8> = (30..210).collect();
    let weight = Weight::Mxfp4(Mxfp4 { packed: &packed, scales: &scales });
    let x: Vec<f32> = (0..32).map(|i| (i * i) as f32).collect();
    let expected = reference::linear(&rounded_to_16_bits(&x, 32), &values(&packed, &scales), None, 32, 180);
    on_every_level(|level| {
        let mut out = vec![f32::NAN; 180];
        linear(&x, 1, 32, &weight, 180, None, &mut out).expect("matching sizes");
        assert_close(&out, &expected, 2e-6, &format!("{level:?}"));
    });
}

#[test]
fn what_is_representable_survives_quantising() {
    for scale in [1, 100, 127, 200, 252] {
        let packed = [0x7654_3210, 0xfedc_ba91, 0x0f1e_2d3c, 0x7765_4321];
        let original = values(&packed, &[scale]);
        let made = quantize_mxfp4(&original, 1, 32).expect("a whole group");
        assert_eq!((&made.packed[..], &made.scales[..]), (&packed[..], &[scale][..]));
    }
}

#[test]
fn groups_too_small_for_a_scale_become_zero_and_those_of_no_numbers_stay_so() {
    let of = |values: [f32; 32]| {
        let made = quantize_mxfp4(&values, 1, 32).expect("a whole group");
        let mut out = [0.0; 32];
        dequantize(&Weight::Mxfp4(made.as_mxfp4()), 1, 32, 0..1, &mut out).expect("a whole weight");
        out
    };
    assert_eq!(of([1e-45; 32]), [0.0; 32]);
    for poison in [f32::NAN, f32::INFINITY] {
        let mut values = [1.0; 32];
        values[7] = poison;
        let out = of(values);
        assert!(out.iter().all(|value| !value.is_finite()), "{poison}: {out:?}");
    }
}

#[test]
fn a_scale_of_no_numbers_gives_none() {
    let weight = Weight::Mxfp4(Mxfp4 { packed: &[0x1111_1111; 4], scales: &[255] });
    for rows in [1, 20] {
        on_every_level(|level| {
            let mut out = vec![0.0; rows];
            linear(&vec![1.0; 32 * rows], rows, 32, &weight, 1, None, &mut out).expect("matching sizes");
            assert!(out.iter().all(|value| !value.is_finite()), "{out:?} with {level:?}");
        });
    }
}

#[test]
fn every_number_of_rows_multiplies() {
    for rows in 0..=70 {
        check([rows, 96, 13], true);
    }
    check([17, 2432, 100], true);
    check([2, 2432, 100], false);
    check([1, 576, 1536], false);
    check([64, 576, 600], true);
}

#[test]
fn a_row_is_the_same_alone_and_among_others() {
    for k in [32, 160, 576] {
        let n = 77;
        let (packed, scales) = random(3, n, k);
        let weight = Weight::Mxfp4(Mxfp4 { packed: &packed, scales: &scales });
        let x = uniform(4, FEW_ROWS * k, -3.0..3.0);
        on_every_level(|level| {
            let run = |x: &[f32], rows| {
                let mut out = vec![f32::NAN; rows * n];
                linear(x, rows, k, &weight, n, None, &mut out).expect("matching sizes");
                out
            };
            let alone: Vec<f32> = x.chunks(k).flat_map(|row| run(row, 1)).collect();
            for rows in 2..=FEW_ROWS {
                assert_eq!(run(&x[..rows * k], rows), alone[..rows * n], "{rows} rows of {k}, {level:?}");
            }
        });
    }
}

#[test]
fn products_with_both_kinds_of_four_bits_are_each_what_they_are_alone() {
    let (k, n) = (192, 70);
    let values = uniform(9, n * k, -1.0..1.0);
    let floats = quantize_mxfp4(&values, n, k).expect("whole groups");
    let affine = quantize(&values, n, k, 4, 32).expect("whole groups");
    let weights = [Weight::Mxfp4(floats.as_mxfp4()), Weight::Affine(affine.as_affine())];
    for rows in [1, 5, 30] {
        let x = uniform(7, rows * k, -1.0..1.0);
        let (mut together, mut alone) =
            ([0; 2].map(|_| vec![0.0; rows * n]), [0; 2].map(|_| vec![0.0; rows * n]));
        let mut parts: Vec<_> = together
            .iter_mut()
            .zip(weights)
            .map(|(out, weight)| Projection { weight, outputs: n, bias: None, out })
            .collect();
        linears(&x, rows, k, &mut parts).expect("matching sizes");
        for (out, weight) in alone.iter_mut().zip(&weights) {
            linear(&x, rows, k, weight, n, None, out).expect("matching sizes");
        }
        assert_eq!(together, alone, "{rows} rows");
    }
}

#[test]
fn embedding_gathers_rows_of_floats() {
    let (packed, scales) = random(5, 50, 64);
    let expected = values(&packed, &scales);
    let mut out = vec![0.0; 3 * 64];
    let table = Weight::Mxfp4(Mxfp4 { packed: &packed, scales: &scales });
    embed(&[49, 0, 7], &table, 50, 64, &mut out).expect("ids of the table");
    for (id, row) in [49, 0, 7].iter().zip(out.chunks_exact(64)) {
        assert_eq!(row, &expected[id * 64..(id + 1) * 64]);
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let check = |packed: &[u32], scales: &[u8], k| {
        Weight::Mxfp4(Mxfp4 { packed, scales }).check(2, k).expect_err("a wrong size")
    };
    assert!(matches!(check(&[0; 16], &[0; 4], 65), ShapeError::Multiple { of: 32, .. }));
    assert!(matches!(check(&[0; 15], &[0; 4], 64), ShapeError::Length { what: "packed weight", .. }));
    assert!(matches!(check(&[0; 16], &[0; 3], 64), ShapeError::Length { what: "scales", .. }));
    assert!(matches!(quantize_mxfp4(&[0.0; 40], 1, 40), Err(ShapeError::Multiple { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn weights_of_any_shape_multiply(rows in 1usize..40, groups in 1usize..12, n in 1usize..60) {
        check([rows, groups * 32, n], true);
    }

    #[test]
    fn quantised_values_are_the_nearest_with_the_smallest_scale_that_holds_the_largest(
        values in prop::collection::vec(-10f32..10.0, 32), exponent in -60i32..60,
    ) {
        let values: Vec<f32> = values.iter().map(|v| v * (exponent as f32).exp2()).collect();
        let made = quantize_mxfp4(&values, 1, 32).expect("a whole group");
        let [scale] = made.scales[..] else { panic!("one group") };
        let largest = values.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
        prop_assert!(largest <= value(7, scale) * 1.000_001 && largest > value(7, scale - 1));
        for (i, &v) in values.iter().enumerate() {
            let found = value(made.packed[i / 8] >> (4 * (i % 8)) & 15, scale);
            let nearest = (0..16).map(|code| (value(code, scale) - v).abs()).fold(f32::INFINITY, f32::min);
            prop_assert!((found - v).abs() <= nearest, "{v} became {found}");
        }
    }
}
