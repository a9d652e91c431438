//! The affine layout against MLX's own numbers.

mod mlx_values;
mod reference;

use half::f16;
use mlx_values::CASES;
use mlxcel_kernels::{Affine, Floats, ShapeError, Weight, dequantize, embed, quantize};
use reference::{on_every_level, uniform};

/// The matrix of `mlx_values/generate.py`.
fn matrix() -> Vec<f32> {
    let mixed = (0..256u64).map(|i| (((i * 2_654_435_761) % (1 << 32)) >> 8) as f32 / 8_388_608.0 - 1.0);
    let rows = mixed.enumerate().map(|(i, v)| if i < 128 { v } else { v.abs() + 0.5 });
    rows.chain([0.3; 128]).chain([0.0; 128]).collect()
}

#[test]
fn quantising_equals_mlx_bit_for_bit() {
    for &(bits, group, packed, scales, biases) in CASES {
        let ours = quantize(&matrix(), 4, 128, bits, group).expect("whole groups");
        let as_bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(as_bits(&ours.scales), scales, "scales of {bits} bits, group {group}");
        assert_eq!(as_bits(&ours.biases), biases, "biases of {bits} bits, group {group}");
        assert_eq!(ours.packed, packed, "words of {bits} bits, group {group}");
    }
}

#[test]
fn dequantising_inverts_the_packing() {
    for &(bits, group, packed, scales, biases) in CASES {
        let [scales, biases] =
            [scales, biases].map(|v| v.iter().map(|&b| f32::from_bits(b)).collect::<Vec<_>>());
        let weight = Weight::Affine(Affine {
            packed,
            scales: Floats::F32(&scales),
            biases: Floats::F32(&biases),
            bits,
            group,
        });
        let expected: Vec<f32> = (0..512)
            .map(|i| {
                let (first, bit) = (i * bits as usize / 32, i * bits as usize % 32);
                let next = packed.get(first + 1).copied().unwrap_or(0);
                let pair = u64::from(packed[first]) | u64::from(next) << 32;
                let q = (pair >> bit) as u32 & ((1 << bits) - 1);
                scales[i / group].mul_add(q as f32, biases[i / group])
            })
            .collect();
        on_every_level(|level| {
            let mut out = vec![0.0; 384];
            dequantize(&weight, 4, 128, 1..4, &mut out).expect("rows of the weight");
            for (found, expected) in out.iter().zip(&expected[128..]) {
                assert!((found - expected).abs() < 1e-6, "{bits} bits, {level:?}: {found}, not {expected}");
            }
        });
    }
}

#[test]
fn embedding_gathers_rows_in_order() {
    let values = uniform(1, 50 * 24, -1.0..1.0);
    let narrow: Vec<_> = values.iter().map(|&v| f16::from_f32(v)).collect();
    let ids: Vec<u32> = (0..100).map(|i| i * 7 % 50).collect();
    on_every_level(|_| {
        let mut out = vec![0.0; ids.len() * 24];
        embed(&ids, &Weight::Dense(Floats::F16(&narrow)), 50, 24, &mut out).expect("ids of the table");
        for (id, row) in ids.iter().zip(out.chunks_exact(24)) {
            let expected: Vec<_> = narrow[*id as usize * 24..][..24].iter().map(|v| v.to_f32()).collect();
            assert_eq!(row, expected);
        }
    });
}

#[test]
fn an_id_past_the_table_is_refused() {
    let mut out = [0.0; 4];
    let error = embed(&[1, 2], &Weight::Dense(Floats::F32(&[0.0; 4])), 2, 2, &mut out);
    assert_eq!(error, Err(ShapeError::Row { id: 2, rows: 2 }));
}

#[test]
fn rows_past_the_weight_are_refused() {
    let weight = Weight::Dense(Floats::F32(&[0.0; 4]));
    assert!(dequantize(&weight, 2, 2, 1..3, &mut [0.0; 4]).is_err());
}
