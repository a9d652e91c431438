//! Norms, rotary embedding, gates and argmax against `f64`.

mod reference;

use mlxcel_kernels::{Rope, ShapeError, add_rms_norm, argmax, rms_norm, rope, swiglu};
use reference::{assert_close, on_every_level, uniform};

fn norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for row in x.chunks_exact(weight.len()) {
        let squares: f64 = row.iter().map(|&v| f64::from(v).powi(2)).sum();
        let factor = 1.0 / (squares / row.len() as f64 + f64::from(eps)).sqrt();
        out.extend(row.iter().zip(weight).map(|(&x, &w)| {
            let value = f64::from(x) * factor * f64::from(w);
            (value, value.abs())
        }));
    }
    out
}

#[test]
fn rms_norm_scales_each_row() {
    for (rows, d) in [(1, 576), (3, 7), (300, 64), (0, 8), (2, 1)] {
        let (x, weight) = (uniform(1, rows * d, -4.0..4.0), uniform(2, d, 0.5..2.0));
        on_every_level(|level| {
            let mut out = vec![f32::NAN; rows * d];
            rms_norm(&x, rows, &weight, 1e-5, &mut out).expect("matching sizes");
            assert_close(&out, &norm(&x, &weight, 1e-5), 1e-6, &format!("{rows}x{d} {level:?}"));
        });
    }
}

#[test]
fn add_rms_norm_adds_before_it_scales() {
    let (rows, d) = (50, 577);
    let (x, delta, weight) =
        (uniform(1, rows * d, -4.0..4.0), uniform(2, rows * d, -1.0..1.0), uniform(3, d, 0.5..2.0));
    let sum: Vec<f32> = x.iter().zip(&delta).map(|(x, d)| x + d).collect();
    on_every_level(|level| {
        let (mut residual, mut out) = (x.clone(), vec![f32::NAN; rows * d]);
        add_rms_norm(&mut residual, &delta, rows, &weight, 1e-5, &mut out).expect("matching sizes");
        assert_eq!(residual, sum);
        assert_close(&out, &norm(&sum, &weight, 1e-5), 1e-6, &format!("{level:?}"));
    });
}

#[test]
fn swiglu_gates_over_the_whole_range_of_exp() {
    let gate: Vec<f32> = (-2200..2200).map(|i| i as f32 / 20.0).chain([0.0, -0.0, 1e-30]).collect();
    let up = uniform(4, gate.len(), -2.0..2.0);
    let expected: Vec<_> = gate
        .iter()
        .zip(&up)
        .map(|(&g, &u)| {
            let value = f64::from(g) / (1.0 + (-f64::from(g)).exp()) * f64::from(u);
            (value, value.abs() + 1e-30)
        })
        .collect();
    on_every_level(|level| {
        let mut out = vec![f32::NAN; gate.len()];
        swiglu(&gate, &up, &mut out).expect("equal lengths");
        assert_close(&out, &expected, 1e-6, &format!("{level:?}"));
    });
}

#[test]
fn swiglu_keeps_nan_and_infinity() {
    on_every_level(|_| {
        let mut out = [0.0; 3];
        swiglu(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY], &[1.0; 3], &mut out).expect("equal lengths");
        assert!(out[0].is_nan());
        assert_eq!(out[1], f32::INFINITY);
    });
}

/// Rotates one head by the definition.
fn turn(head: &mut [f32], position: i32, rule: &Rope<'_>) {
    for (i, &frequency) in rule.inverse_frequencies.iter().enumerate() {
        let (a, b) = if rule.traditional { (2 * i, 2 * i + 1) } else { (i, i + rule.dims / 2) };
        let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
        let (x, y, m) = (f64::from(head[a]), f64::from(head[b]), f64::from(rule.magnitude));
        head[a] = (m * (x * cos - y * sin)) as f32;
        head[b] = (m * (x * sin + y * cos)) as f32;
    }
}

#[test]
fn rope_turns_pairs_and_leaves_the_rest() {
    let frequencies: Vec<f32> = (0..32).map(|i| 10_000f32.powf(-(i as f32) / 32.0)).collect();
    let (heads, head_dim) = (3, 80);
    for traditional in [false, true] {
        for magnitude in [1.0, 1.25] {
            let rule = Rope { inverse_frequencies: &frequencies, dims: 64, traditional, magnitude };
            for positions in [vec![0], vec![7, 8000, 3], (0..200).collect()] {
                let x = uniform(6, positions.len() * heads * head_dim, -1.0..1.0);
                let mut expected = x.clone();
                for (index, head) in expected.chunks_exact_mut(head_dim).enumerate() {
                    turn(head, positions[index / heads], &rule);
                }
                on_every_level(|_| {
                    let mut turned = x.clone();
                    rope(&mut turned, heads, head_dim, &positions, &rule).expect("matching sizes");
                    for (found, expected) in turned.iter().zip(&expected) {
                        assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
                    }
                });
            }
        }
    }
}

#[test]
fn rope_refuses_odd_or_too_many_dims() {
    let rule =
        |dims, inverse_frequencies| Rope { inverse_frequencies, dims, traditional: false, magnitude: 1.0 };
    assert!(rope(&mut [0.0; 8], 1, 8, &[0], &rule(3, &[1.0])).is_err());
    assert!(rope(&mut [0.0; 8], 1, 8, &[0], &rule(10, &[1.0; 5])).is_err());
    let error = rope(&mut [0.0; 8], 1, 8, &[0], &rule(8, &[1.0; 3]));
    assert!(matches!(error, Err(ShapeError::Length { what: "inverse frequencies", expected: 4, found: 3 })));
}

#[test]
fn argmax_names_the_first_largest() {
    let mut x = uniform(9, 3 * 1000, -5.0..5.0);
    x[17] = 9.0;
    x[400] = 9.0;
    x[1999] = 9.0;
    x[2000..].fill(f32::NEG_INFINITY);
    assert_eq!(argmax(&x, 3, 1000), Ok(vec![17, 999, 0]));
    x[3] = f32::NAN;
    assert_eq!(argmax(&x[..1000], 1, 1000), Ok(vec![17]));
    assert!(argmax(&[], 0, 0).is_err());
}
