//! Each group of operations against values worked out by hand.

use mlxcel_mlx_bridge::fast::{self, Mask, RopeOffset, RopeOptions};
use mlxcel_mlx_bridge::{Array, Dtype, ErrorKind, Quantized, QuantizedLayout, Result, random};

fn array(values: &[f32], shape: &[i32]) -> Array {
    Array::from_slice(values, shape).expect("an array")
}

fn ints(values: &[i32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).expect("an array")
}

#[track_caller]
fn assert_values(got: Result<Array>, expected: &[f32]) {
    let got = got.expect("a result").astype(Dtype::Float32).expect("floats").to_vec::<f32>().expect("values");
    assert_eq!(got.len(), expected.len(), "{got:?}");
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() <= 1e-5 * e.abs().max(1.0), "{got:?} is not {expected:?}");
    }
}

#[test]
fn elementwise_functions_of_one_array() {
    let a = array(&[0.25, 1.0, 4.0], &[3]);
    assert_values(a.sqrt(), &[0.5, 1.0, 2.0]);
    assert_values(a.rsqrt(), &[2.0, 1.0, 0.5]);
    assert_values(a.square(), &[0.0625, 1.0, 16.0]);
    assert_values(a.negative(), &[-0.25, -1.0, -4.0]);
    assert_values(a.reciprocal(), &[4.0, 1.0, 0.25]);
    assert_values(a.floor(), &[0.0, 1.0, 4.0]);
    assert_values(a.log().and_then(|l| l.exp()), &[0.25, 1.0, 4.0]);
    assert_values(array(&[0.0], &[1]).sigmoid(), &[0.5]);
    assert_values(array(&[-1.5], &[1]).abs(), &[1.5]);
    assert_values(array(&[1.0], &[1]).erf(), &[0.842_700_8]);
    assert_values(array(&[1.0], &[1]).tanh(), &[0.761_594_2]);
}

#[test]
fn elementwise_functions_of_two_arrays_broadcast() {
    let a = array(&[1.0, 2.0, 3.0, 4.0], &[2, 2]);
    let b = array(&[2.0, 4.0], &[2]);
    assert_values(a.add(&b), &[3.0, 6.0, 5.0, 8.0]);
    assert_values(a.subtract(&b), &[-1.0, -2.0, 1.0, 0.0]);
    assert_values(a.multiply(&b), &[2.0, 8.0, 6.0, 16.0]);
    assert_values(a.divide(&b), &[0.5, 0.5, 1.5, 1.0]);
    assert_values(a.power(&b), &[1.0, 16.0, 9.0, 256.0]);
    assert_values(a.maximum(&b), &[2.0, 4.0, 3.0, 4.0]);
    assert_values(a.minimum(&b), &[1.0, 2.0, 2.0, 4.0]);
    assert_values(a.greater(&b), &[0.0, 0.0, 1.0, 0.0]);
    assert_values(a.less_equal(&b), &[1.0, 1.0, 0.0, 1.0]);
    let yes = a.less(&b).expect("a condition");
    assert_values(Array::select(&yes, &a, &b), &[1.0, 2.0, 2.0, 4.0]);
}

#[test]
fn a_scalar_does_not_promote() {
    let a = array(&[1.0], &[1]).astype(Dtype::Bfloat16).expect("bfloat16");
    assert_eq!(a.multiply_scalar(2.0).expect("a product").dtype(), Dtype::Bfloat16);
}

#[test]
fn shapes_change_without_losing_elements() {
    let a = array(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &[2, 3]);
    assert_eq!(a.reshape(&[3, -1]).expect("a shape").shape(), [3, 2]);
    assert_eq!(a.expand_dims(&[0, 2]).expect("a shape").shape(), [1, 2, 1, 3]);
    assert_eq!(a.expand_dims(&[0]).and_then(|a| a.squeeze(&[0])).expect("a shape").shape(), [2, 3]);
    assert_values(a.slice(&[0, 1], &[2, 3]), &[1.0, 2.0, 4.0, 5.0]);
    assert_values(a.slice_strided(&[0, 0], &[2, 3], &[1, 2]), &[0.0, 2.0, 3.0, 5.0]);
    assert_values(a.slice_update(&array(&[9.0], &[1, 1]), &[1, 1], &[2, 2]), &[0.0, 1.0, 2.0, 3.0, 9.0, 5.0]);
    assert_values(Array::concatenate(&[&a, &a], 1).and_then(|c| c.slice(&[0, 2], &[1, 4])), &[2.0, 0.0]);
    assert_eq!(Array::stack(&[&a, &a], 0).expect("a stack").shape(), [2, 2, 3]);
    assert_eq!(a.split(3, 1).expect("parts").len(), 3);
    assert_values(a.split_at(&[1], 1).map(|parts| parts[1].clone()), &[1.0, 2.0, 4.0, 5.0]);
    assert_values(array(&[1.0, 2.0], &[2]).repeat(2, 0), &[1.0, 1.0, 2.0, 2.0]);
    assert_values(array(&[1.0], &[1]).pad(&[1], &[2], 7.0), &[7.0, 1.0, 7.0, 7.0]);
    assert_values(Array::ones(&[2, 2], Dtype::Float32).and_then(|o| o.tril(0)), &[1.0, 0.0, 1.0, 1.0]);
    assert_values(Array::arange(1.0, 2.0, 0.5, Dtype::Float32), &[1.0, 1.5]);
    assert_eq!(a.view(Dtype::Uint8).expect("a view").shape(), [2, 12]);
}

#[test]
fn indices_pick_rows_and_elements() {
    let a = array(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &[3, 2]);
    assert_values(a.take(&ints(&[2, 0]), 0), &[4.0, 5.0, 0.0, 1.0]);
    let at = ints(&[1, 0, 1]).reshape(&[3, 1]).expect("a column");
    assert_values(a.take_along_axis(&at, 1), &[1.0, 2.0, 5.0]);
    assert_values(a.put_along_axis(&at, &array(&[9.0], &[1, 1]), 1), &[0.0, 9.0, 9.0, 3.0, 4.0, 9.0]);
}

#[test]
fn reductions_go_over_the_named_axes() {
    let a = array(&[1.0, 2.0, 3.0, 6.0], &[2, 2]);
    assert_values(a.sum(&[1], false), &[3.0, 9.0]);
    assert_values(a.mean(&[0, 1], false), &[3.0]);
    assert_values(a.max(&[0], true), &[3.0, 6.0]);
    assert_values(a.min(&[-1], false), &[1.0, 3.0]);
    assert_values(a.cumsum(1), &[1.0, 3.0, 3.0, 9.0]);
    assert_values(a.cumsum_exclusive(1), &[0.0, 1.0, 0.0, 3.0]);
    assert_values(a.softmax(&[1], true).and_then(|s| s.sum(&[1], false)), &[1.0, 1.0]);
    assert_values(a.logsumexp(&[1], false), &[2.313_261_7, 6.048_587]);
}

#[test]
fn order_along_an_axis() {
    let a = array(&[3.0, 1.0, 2.0], &[3]);
    assert_eq!(a.argmax(0, false).and_then(|i| i.item::<u32>()).expect("an index"), 0);
    assert_values(a.argmin(0, false), &[1.0]);
    assert_values(a.sort(0), &[1.0, 2.0, 3.0]);
    assert_values(a.argsort(0), &[1.0, 2.0, 0.0]);
    assert_values(a.argpartition(2, 0).and_then(|p| p.slice(&[2], &[3])), &[0.0]);
    assert_values(a.topk(1, 0), &[3.0]);
}

#[test]
fn matmul_multiplies() {
    let a = array(&[1.0, 2.0, 3.0, 4.0], &[2, 2]);
    assert_values(a.matmul(&a), &[7.0, 10.0, 15.0, 22.0]);
}

#[test]
fn a_quantised_matrix_stays_within_half_a_step() {
    let values: Vec<f32> = (0..256).map(|i| (i as f32 * 0.37).sin()).collect();
    let w = array(&values, &[4, 64]);
    for bits in [2, 3, 4, 5, 6, 8] {
        let q = Quantized::quantize(&w, QuantizedLayout::affine(bits, 64)).expect("quantised");
        assert_eq!(q.weight.shape(), [4, 2 * bits]);
        let step = 2.0 / ((1 << bits) - 1) as f32;
        let back = q.dequantize().and_then(|b| b.to_vec::<f32>()).expect("values");
        let worst = back.iter().zip(&values).map(|(b, v)| (b - v).abs()).fold(0.0, f32::max);
        assert!(worst <= step, "{bits} bits: {worst} is over {step}");
    }
}

#[test]
fn a_quantised_product_is_the_product_of_the_dequantised() {
    let w = random::normal(&[8, 64], Dtype::Float32, Some(&random::key(1).expect("a key"))).expect("weights");
    let x = random::normal(&[3, 64], Dtype::Float32, Some(&random::key(2).expect("a key"))).expect("input");
    let q = Quantized::quantize(&w, QuantizedLayout::affine(4, 32)).expect("quantised");
    let slow = x.matmul(&q.dequantize().and_then(|d| d.transpose(&[])).expect("weights")).expect("a product");
    let difference = q.matmul(&x, true).and_then(|fast| fast.subtract(&slow)?.abs()?.max(&[0, 1], false));
    // GPUs round the factors of f32 products to fewer bits.
    assert!(difference.and_then(|d| d.item::<f32>()).expect("a number") < 2e-2);
}

#[test]
fn an_unknown_layout_is_refused() {
    let w = Array::zeros(&[4, 64], Dtype::Float32).expect("weights");
    let error = Quantized::quantize(&w, QuantizedLayout::affine(7, 64)).expect_err("7 bits");
    assert_eq!((error.op, error.kind), ("quantize", ErrorKind::Argument));
}

#[test]
fn norms_and_rotation() {
    let x = array(&[3.0, 4.0], &[1, 2]);
    let weight = array(&[1.0, 2.0], &[2]);
    let rms = 12.5f32.sqrt();
    assert_values(fast::rms_norm(&x, Some(&weight), 0.0), &[3.0 / rms, 8.0 / rms]);
    assert_values(fast::layer_norm(&x, None, None, 0.0), &[-1.0, 1.0]);
    let x = array(&[1.0, 0.0], &[1, 1, 1, 2]);
    let options = |offset| RopeOptions {
        dims: 2,
        traditional: false,
        base: Some(10000.0),
        scale: 1.0,
        offset,
        freqs: None,
    };
    let turned = [2.0f32.cos(), 2.0f32.sin()];
    assert_values(fast::rope(&x, options(RopeOffset::Position(2))), &turned);
    assert_values(fast::rope(&x, options(RopeOffset::Positions(&ints(&[2])))), &turned);
}

#[test]
fn attention_masks_the_future() {
    let q = array(&[1.0, 0.0, 0.0, 1.0], &[1, 1, 2, 2]);
    let v = array(&[1.0, 2.0, 3.0, 4.0], &[1, 1, 2, 2]);
    let causal = fast::scaled_dot_product_attention(&q, &q, &v, 1.0, Mask::Causal).expect("attention");
    assert_values(causal.slice(&[0, 0, 0, 0], &[1, 1, 1, 2]), &[1.0, 2.0]);
    let seen =
        Array::ones(&[2, 2], Dtype::Float32).and_then(|o| o.tril(0)).and_then(|o| o.astype(Dtype::Bool));
    let masked = fast::scaled_dot_product_attention(&q, &q, &v, 1.0, Mask::Array(&seen.expect("a mask")));
    assert_values(masked, &causal.to_vec::<f32>().expect("values"));
}

#[test]
fn the_same_key_gives_the_same_numbers() {
    let key = random::key(7).expect("a key");
    let once = random::uniform(0.0, 1.0, &[8], Dtype::Float32, Some(&key)).and_then(|u| u.to_vec::<f32>());
    let twice = random::uniform(0.0, 1.0, &[8], Dtype::Float32, Some(&key)).and_then(|u| u.to_vec::<f32>());
    assert_eq!(once, twice);
    let keys = random::split(&key, 2).expect("keys");
    assert_eq!(keys.shape(), [2, 2]);
}

#[test]
fn categorical_takes_the_certain_one() {
    let logits = array(&[0.0, 100.0, 0.0], &[1, 3]);
    let key = random::key(0).expect("a key");
    assert_eq!(
        random::categorical(&logits, -1, Some(&key)).and_then(|i| i.to_vec::<u32>()).expect("an index"),
        [1]
    );
}

#[test]
fn a_sink_takes_its_share_of_attention() {
    let q = array(&[0.0, 0.0], &[1, 1, 1, 2]);
    let v = array(&[2.0, 4.0], &[1, 1, 1, 2]);
    let sinks = array(&[0.0], &[1]);
    assert_values(fast::attention_with_sinks([&q, &q, &v], 1.0, Mask::None, &sinks), &[1.0, 2.0]);
}

#[test]
fn gathered_products_take_each_rows_own_matrix() {
    let w =
        random::normal(&[3, 64, 8], Dtype::Float32, Some(&random::key(1).expect("a key"))).expect("weights");
    let x =
        random::normal(&[2, 1, 64], Dtype::Float32, Some(&random::key(2).expect("a key"))).expect("input");
    let experts = Array::from_slice(&[2u32, 0], &[2]).expect("experts");
    let slow = x.matmul(&w.take(&experts, 0).expect("matrices")).expect("a product");
    let worst = |fast: Result<Array>, slow: &Array| {
        let difference = fast.and_then(|fast| fast.subtract(slow)?.abs()?.max(&[0, 1, 2], false));
        difference.and_then(|d| d.item::<f32>()).expect("a number")
    };
    assert!(worst(x.gather_mm(&w, &experts), &slow) < 2e-2);

    let layout = QuantizedLayout::affine(8, 64);
    let q = Quantized::quantize(&w.transpose(&[0, 2, 1]).expect("rows"), layout).expect("quantised");
    let chosen = q.dequantize().and_then(|d| d.take(&experts, 0)?.transpose(&[0, 2, 1])).expect("matrices");
    let slow = x.matmul(&chosen).expect("a product");
    assert!(worst(q.gather_matmul(&x, &experts), &slow) < 2e-2);
}

#[test]
fn convolution_slides_along_the_length() {
    let x = array(&[1.0, 2.0, 3.0, 4.0], &[1, 4, 1]);
    let w = array(&[1.0, 10.0], &[1, 2, 1]);
    assert_values(x.conv1d(&w, 1, 0, 1), &[21.0, 32.0, 43.0]);
    assert_values(x.conv1d(&w, 2, 1, 1), &[10.0, 32.0, 4.0]);
}
