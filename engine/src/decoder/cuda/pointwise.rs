//! What happens between products: the residual sum with its norm, gates, rotation.
//!
//! Each function returns nothing where the kernel cannot take the arrays, and the caller does the same
//! with MLX's operations.

use mlxcel_mlx_bridge::cuda::Launch;
use mlxcel_mlx_bridge::{Array, Dtype, Result};

use super::library::{Instance, Kernels, defect, float, is_supported, tag};
use crate::decoder::weights::{AttentionWeights, NormWeights};
use crate::decoder::{StepInputs, length};

/// Threads of a block that norms a row; each takes eight elements a pass.
const NORM_THREADS: usize = 512;

/// `x + delta` and its norm, `[rows, width]` each.
pub(super) fn add_norm(
    kernels: &Kernels,
    x: &Array,
    delta: &Array,
    norm: &NormWeights,
) -> Option<Result<(Array, Array)>> {
    let dtype = x.dtype();
    let width = norm.weight.size();
    let passes = width.div_ceil(NORM_THREADS * 8);
    let alike = [delta.dtype(), norm.weight.dtype()] == [dtype; 2] && delta.shape() == x.shape();
    if !is_supported(dtype) || !alike || !width.is_multiple_of(8) || passes > 4 || width == 0 {
        return None;
    }
    let threads = (width / 8).next_multiple_of(32).min(NORM_THREADS);
    let epsilon = norm.epsilon;
    let name = format!("add_rms_norm_{}_{threads}_{passes}_{:08x}", tag(dtype), epsilon.to_bits());
    let instance = || Instance {
        name: name.clone(),
        inputs: &["x", "delta", "weight"],
        outputs: &["sum", "normed"],
        dtype,
        shared_bytes: 0,
        body: format!(
            "mlxcel::add_rms_norm<T, {threads}, {passes}, true>(x, delta, weight, sum, normed, weight_shape[0], {});",
            float(epsilon)
        ),
    };
    let outputs = [(x.shape(), dtype); 2];
    let launch = Launch::linear(x.size() / width, threads as u32);
    Some(kernels.launch(&name, instance, (&[x, delta, &norm.weight], &outputs), launch).and_then(pair))
}

/// `silu(gate) * up` of two arrays of one shape.
pub(super) fn silu_multiply(kernels: &Kernels, gate: &Array, up: &Array) -> Option<Result<Array>> {
    let dtype = gate.dtype();
    let &[_, width] = gate.shape() else { return None };
    if !is_supported(dtype) || up.dtype() != dtype || up.shape() != gate.shape() || width % 8 != 0 {
        return None;
    }
    let name = format!("silu_multiply_{}", tag(dtype));
    let instance = || Instance {
        name: name.clone(),
        inputs: &["gate", "up"],
        outputs: &["out"],
        dtype,
        shared_bytes: 0,
        body: "const int width = gate_shape[1];\n\
               mlxcel::silu_multiply<T>(gate, up, out, gate_shape[0], width, width, width);"
            .to_owned(),
    };
    let launch = Launch::linear((gate.size() / 8).div_ceil(256), 256);
    Some(kernels.launch_one(&name, instance, (&[gate, up], (gate.shape(), dtype)), launch))
}

/// `silu(first half) * second half` of each row: `[rows, 2 * width]` to `[rows, width]`.
pub(super) fn silu_multiply_halves(kernels: &Kernels, x: &Array) -> Result<Array> {
    let (dtype, rows, width) = (x.dtype(), x.dim(0)?, x.dim(1)? / 2);
    if !is_supported(dtype) || width % 8 != 0 {
        return Err(defect("gates are multiplied in eights of bfloat16 or float16"));
    }
    let name = format!("silu_multiply_halves_{}", tag(dtype));
    let instance = || Instance {
        name: name.clone(),
        inputs: &["x"],
        outputs: &["out"],
        dtype,
        shared_bytes: 0,
        body: "const int width = x_shape[1] / 2;\n\
               mlxcel::silu_multiply<T>(x, x + width, out, x_shape[0], width, 2 * width, 2 * width);"
            .to_owned(),
    };
    let launch = Launch::linear((rows as usize * width as usize / 8).div_ceil(256), 256);
    kernels.launch_one(&name, instance, (&[x], (&[rows, width], dtype)), launch)
}

/// Whether `rope_split` exists for an attention block with activations of `dtype`.
pub(super) fn can_split(attention: &AttentionWeights, dtype: Dtype) -> bool {
    let (shape, norms) = (&attention.shape, [&attention.query_norm, &attention.key_norm]);
    let epsilon = |norm: &Option<NormWeights>| norm.as_ref().map(|norm| norm.epsilon.to_bits());
    is_supported(dtype)
        && shape.rope.dims.is_multiple_of(2)
        && shape.rope.dims <= shape.head_dim
        && epsilon(norms[0]) == epsilon(norms[1])
        && norms.iter().all(|norm| norm.as_ref().is_none_or(|norm| norm.weight.dtype() == dtype))
}

/// Queries and keys, normed and rotated, and values out of one row a token:
/// `[tokens, (heads + 2 * kv_heads) * head_dim]` to `[tokens, heads, head_dim]` and twice
/// `[tokens, kv_heads, head_dim]`.
pub(super) fn rope_split(
    kernels: &Kernels,
    x: &Array,
    attention: &AttentionWeights,
    step: &StepInputs,
) -> Result<[Array; 3]> {
    let (dtype, shape, rope) = (x.dtype(), &attention.shape, &attention.rope.rope);
    let norms = attention.query_norm.as_ref().zip(attention.key_norm.as_ref());
    let epsilon = norms.map_or(0.0, |(norm, _)| norm.epsilon);
    let name = format!(
        "rope_split_{}_{}_{}_{}_{}_{}_{}_{:08x}_{:08x}",
        tag(dtype),
        shape.heads,
        shape.kv_heads,
        shape.head_dim,
        rope.dims,
        u8::from(rope.traditional),
        u8::from(norms.is_some()),
        epsilon.to_bits(),
        rope.magnitude.to_bits(),
    );
    let instance = || Instance {
        name: name.clone(),
        inputs: if norms.is_some() { &ROPE_INPUTS } else { &ROPE_INPUTS[..3] },
        outputs: &["q", "k", "v"],
        dtype,
        shared_bytes: 0,
        body: format!(
            "mlxcel::rope_split<T, {}, {}, {}>(x, {}, periods, positions, q, k, v, x_shape[0], {}, {}, {}, {});",
            shape.head_dim,
            rope.dims,
            rope.traditional,
            if norms.is_some() {
                "q_norm, k_norm"
            } else {
                "static_cast<const T*>(nullptr), static_cast<const T*>(nullptr)"
            },
            shape.heads,
            shape.kv_heads,
            float(epsilon),
            float(rope.magnitude),
        ),
    };
    let tokens = x.dim(0)?;
    let heads = |count: usize| [tokens, length(count), length(shape.head_dim)];
    let (query, key) = (heads(shape.heads), heads(shape.kv_heads));
    let mut inputs = vec![x, &attention.rope.periods, &step.position_array];
    inputs.extend(norms.iter().flat_map(|(query, key)| [&query.weight, &key.weight]));
    let warps = tokens as usize * (shape.heads + 2 * shape.kv_heads);
    let outputs = [(&query[..], dtype), (&key[..], dtype), (&key[..], dtype)];
    let made =
        kernels.launch(&name, instance, (&inputs, &outputs), Launch::linear(warps.div_ceil(4), 128))?;
    <[Array; 3]>::try_from(made).map_err(|_| defect("rope_split returns three arrays"))
}

const ROPE_INPUTS: [&str; 5] = ["x", "periods", "positions", "q_norm", "k_norm"];

fn pair(made: Vec<Array>) -> Result<(Array, Array)> {
    let [first, second] =
        <[Array; 2]>::try_from(made).map_err(|_| defect("a kernel of two outputs returns two"))?;
    Ok((first, second))
}
