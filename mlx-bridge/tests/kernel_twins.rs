//! The CPU kernels inside host operations, held against plain MLX operations.

use mlxcel_kernels::{self as kernels, Affine, Floats, Mxfp4, Weight};
use mlxcel_mlx_bridge::fast::{self, RopeOffset, RopeOptions};
use mlxcel_mlx_bridge::{
    Array, Device, Dtype, HostInput, Quantized, QuantizedLayout, QuantizedMode, host_op_single, random,
    set_default_device,
};

/// On the CPU, where MLX multiplies in full f32; GPUs round the factors to fewer bits.
fn normal(seed: u64, shape: &[i32]) -> Array {
    set_default_device(Device::CPU).expect("a CPU");
    let key = random::key(seed).expect("a key");
    random::normal(shape, Dtype::Float32, Some(&key)).expect("numbers")
}

fn floats<'a>(input: &HostInput<'a>) -> Result<Floats<'a>, String> {
    match input.dtype() {
        Dtype::Float16 => input.as_slice().map(Floats::F16),
        Dtype::Bfloat16 => input.as_slice().map(Floats::Bf16),
        _ => input.as_slice().map(Floats::F32),
    }
}

/// The largest difference, as a part of the largest expected value.
#[track_caller]
fn assert_close(fast: &Array, slow: &Array, tolerance: f32) {
    assert_eq!(fast.shape(), slow.shape());
    let fast = fast.to_vec::<f32>().expect("values");
    let slow = slow.astype(Dtype::Float32).and_then(|s| s.to_vec::<f32>()).expect("values");
    let largest = slow.iter().fold(0.0f32, |m, s| m.max(s.abs()));
    let worst = fast.iter().zip(&slow).fold(0.0f32, |m, (f, s)| m.max((f - s).abs()));
    assert!(worst <= tolerance * largest, "differs by {worst} of {largest}");
}

fn affine_linear(x: &Array, w: &Quantized, rows: usize, n: usize, k: usize) -> Array {
    let biases = w.biases.as_ref().expect("affine");
    let (bits, group) = (w.layout.bits as u32, w.layout.group_size as usize);
    let shape = [rows as i32, n as i32];
    host_op_single(
        "linear",
        &[x, &w.weight, &w.scales, biases],
        &shape,
        Dtype::Float32,
        move |inputs, out| {
            let [x, packed, scales, biases] = inputs else { return Err("four inputs".into()) };
            let (scales, biases) = (floats(scales)?, floats(biases)?);
            let weight = Weight::Affine(Affine { packed: packed.as_u32()?, scales, biases, bits, group });
            kernels::linear(x.as_f32()?, rows, k, &weight, n, None, out.as_f32_mut()?)
                .map_err(|e| e.to_string())
        },
    )
    .expect("a node")
}

fn mxfp4_linear(x: &Array, w: &Quantized, rows: usize, n: usize, k: usize) -> Array {
    let shape = [rows as i32, n as i32];
    host_op_single("linear", &[x, &w.weight, &w.scales], &shape, Dtype::Float32, move |inputs, out| {
        let [x, packed, scales] = inputs else { return Err("three inputs".into()) };
        let weight = Weight::Mxfp4(Mxfp4 { packed: packed.as_u32()?, scales: scales.as_slice()? });
        kernels::linear(x.as_f32()?, rows, k, &weight, n, None, out.as_f32_mut()?).map_err(|e| e.to_string())
    })
    .expect("a node")
}

#[test]
fn mxfp4_products_agree() {
    let layout = QuantizedLayout { bits: 4, group_size: 32, mode: QuantizedMode::Mxfp4 };
    for rows in [1, 5, 33] {
        let (n, k) = (48, 256);
        let w = Quantized::quantize(&normal(1, &[n, k]), layout).expect("weights");
        assert!(w.biases.is_none() && w.scales.dtype() == Dtype::Uint8);
        let x = normal(2, &[rows, k]);
        let fast = mxfp4_linear(&x, &w, rows as usize, n as usize, k as usize);
        assert_close(&fast, &w.matmul(&x, true).expect("a product"), 1e-4);
    }
}

#[test]
fn affine_products_agree_in_every_width_and_group() {
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            for rows in [1, 5, 33] {
                let (n, k) = (48, 256);
                let w = Quantized::quantize(&normal(1, &[n, k]), QuantizedLayout::affine(bits, group))
                    .expect("weights");
                let x = normal(2, &[rows, k]);
                let fast = affine_linear(&x, &w, rows as usize, n as usize, k as usize);
                assert_close(&fast, &w.matmul(&x, true).expect("a product"), 1e-4);
            }
        }
    }
}

#[test]
fn affine_products_take_narrow_scales() {
    for dtype in [Dtype::Float16, Dtype::Bfloat16] {
        let matrix = normal(3, &[32, 128]).astype(dtype).expect("weights");
        let w = Quantized::quantize(&matrix, QuantizedLayout::affine(4, 64)).expect("weights");
        assert_eq!(w.scales.dtype(), dtype);
        let x = normal(4, &[3, 128]);
        let fast = affine_linear(&x, &w, 3, 32, 128);
        let wide = Quantized {
            scales: w.scales.astype(Dtype::Float32).expect("scales"),
            biases: w.biases.as_ref().map(|b| b.astype(Dtype::Float32).expect("biases")),
            ..w
        };
        assert_close(&fast, &wide.matmul(&x, true).expect("a product"), 1e-4);
    }
}

#[test]
fn dense_products_agree_in_every_dtype() {
    for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
        let w = normal(5, &[40, 96]).astype(dtype).expect("weights");
        for rows in [1, 17] {
            let x = normal(6, &[rows, 96]);
            let fast =
                host_op_single("linear", &[&x, &w], &[rows, 40], Dtype::Float32, move |inputs, out| {
                    let weight = Weight::Dense(floats(&inputs[1])?);
                    let x = inputs[0].as_f32()?;
                    kernels::linear(x, rows as usize, 96, &weight, 40, None, out.as_f32_mut()?)
                        .map_err(|e| e.to_string())
                });
            let slow =
                w.astype(Dtype::Float32).and_then(|w| x.matmul(&w.transpose(&[])?)).expect("a product");
            assert_close(&fast.expect("a node"), &slow, 1e-4);
        }
    }
}

#[test]
fn rms_norm_agrees() {
    let (x, w) = (normal(7, &[6, 80]), normal(8, &[80]));
    let fast = host_op_single("rms_norm", &[&x, &w], &[6, 80], Dtype::Float32, |inputs, out| {
        kernels::rms_norm(inputs[0].as_f32()?, 6, inputs[1].as_f32()?, 1e-5, out.as_f32_mut()?)
            .map_err(|e| e.to_string())
    });
    assert_close(&fast.expect("a node"), &fast::rms_norm(&x, Some(&w), 1e-5).expect("a norm"), 1e-5);
}

#[test]
fn rope_agrees_in_both_orders_and_on_part_of_a_head() {
    const TOKENS: i32 = 5;
    for (traditional, dims) in [(false, 16), (true, 16), (false, 8)] {
        let x = normal(9, &[TOKENS, 3, 16]);
        let fast = host_op_single("rope", &[&x], x.shape(), Dtype::Float32, move |inputs, out| {
            let half = dims / 2;
            let inverse: Vec<f32> = (0..half).map(|i| 1e4f32.powf(-(i as f32) / half as f32)).collect();
            let positions: Vec<i32> = (7..7 + TOKENS).collect();
            let rope = kernels::Rope { inverse_frequencies: &inverse, dims, traditional, magnitude: 1.0 };
            let out = out.as_f32_mut()?;
            out.copy_from_slice(inputs[0].as_f32()?);
            kernels::rope(out, 3, 16, &positions, &rope).map_err(|e| e.to_string())
        });
        let offset = RopeOffset::Position(7);
        let options =
            RopeOptions { dims: dims as i32, traditional, base: Some(1e4), scale: 1.0, offset, freqs: None };
        // MLX takes tokens on the axis before the features.
        let slow = x.transpose(&[1, 0, 2]).and_then(|x| x.expand_dims(&[0]));
        let slow =
            slow.and_then(|x| fast::rope(&x, options)).and_then(|x| x.squeeze(&[0])?.transpose(&[1, 0, 2]));
        assert_close(&fast.expect("a node"), &slow.expect("rotated"), 1e-5);
    }
}

#[test]
fn swiglu_agrees() {
    let (gate, up) = (normal(10, &[3, 70]), normal(11, &[3, 70]));
    let fast = host_op_single("swiglu", &[&gate, &up], &[3, 70], Dtype::Float32, |inputs, out| {
        kernels::swiglu(inputs[0].as_f32()?, inputs[1].as_f32()?, out.as_f32_mut()?)
            .map_err(|e| e.to_string())
    });
    let slow = gate.sigmoid().and_then(|s| s.multiply(&gate)?.multiply(&up)).expect("a product");
    assert_close(&fast.expect("a node"), &slow, 1e-5);
}

#[test]
fn embedding_rows_agree() {
    let table = Quantized::quantize(&normal(12, &[10, 64]), QuantizedLayout::affine(4, 32)).expect("a table");
    let biases = table.biases.as_ref().expect("affine");
    let inputs = [&table.weight, &table.scales, biases];
    let fast = host_op_single("embed", &inputs, &[2, 64], Dtype::Float32, |inputs, out| {
        let [packed, scales, biases] = inputs else { return Err("three inputs".into()) };
        let (scales, biases) = (floats(scales)?, floats(biases)?);
        let weight = Weight::Affine(Affine { packed: packed.as_u32()?, scales, biases, bits: 4, group: 32 });
        kernels::embed(&[7, 2], &weight, 10, 64, out.as_f32_mut()?).map_err(|e| e.to_string())
    });
    let ids = Array::from_slice(&[7u32, 2], &[2]).expect("ids");
    let slow = table.dequantize().and_then(|t| t.take(&ids, 0)).expect("rows");
    assert_close(&fast.expect("a node"), &slow, 1e-6);
}
