//! Attention over the paged pool, and writing to it.
//!
//! These launches change their input: the pool's sides are written in place, which MLX does not see. What orders
//! them is `after`, a number that one leaves for the next; see `kv::CudaKv`, which keeps that chain.

use mlxcel_mlx_bridge::cuda::Launch;
use mlxcel_mlx_bridge::{Array, Dtype, Result};

use super::library::{Instance, Kernels, defect, float, is_supported, tag};
use crate::decoder::{Attention, length};
use crate::kv::AttentionRule;

/// Warps of a block, as in the kernel.
const WARPS: usize = 4;
/// Rows of an item, as in the kernel.
const ITEM_ROWS: i32 = 16;

/// What a launch reads and writes: the pool's sides, `[rows, kv_heads, head_dim]`, and what must be done before.
#[derive(Clone, Copy)]
pub(crate) struct PoolArrays<'a> {
    pub(crate) sides: [&'a Array; 2],
    /// U32 `[1]`.
    pub(crate) after: &'a Array,
}

/// The items of a launch, as `kv::Work` makes them.
#[derive(Clone, Copy)]
pub(crate) struct Items<'a> {
    /// I32.
    pub(crate) plan: &'a Array,
    pub(crate) items: usize,
    pub(crate) rows: usize,
    pub(crate) parts: bool,
}

/// Whether there are kernels for attention of this shape in `dtype`.
pub(crate) fn can_attend(attention: &Attention, dtype: Dtype) -> bool {
    is_supported(dtype)
        && matches!(attention.head_dim, 64 | 128)
        && attention.kv_heads > 0
        && attention.heads.is_multiple_of(attention.kv_heads)
}

/// Attends with the rows of `items`, `[items.rows, heads, head_dim]`, and writes their keys and values; the number that says so.
pub(crate) fn attend(
    kernels: &Kernels,
    rule: AttentionRule<'_>,
    [query, key, value]: [&Array; 3],
    pool: PoolArrays<'_>,
    items: Items<'_>,
) -> Result<[Array; 2]> {
    let (dtype, shape) = (query.dtype(), rule.shape);
    let sinks = rule.sinks.map(|sinks| sinks.astype(Dtype::Float32)).transpose()?;
    let mut inputs = vec![query, key, value, pool.sides[0], pool.sides[1], items.plan, pool.after];
    inputs.extend(&sinks);
    let name = name("attend", rule, dtype, items.parts);
    let instance = || Instance {
        name: name.clone(),
        inputs: &INPUTS[..inputs.len()],
        outputs: if items.parts { &["parts", "peaks", "done"] } else { &["out", "done"] },
        dtype,
        shared_bytes: 0,
        body: body(rule, items.parts),
    };
    let (heads, head_dim) = (length(shape.heads), length(shape.head_dim));
    let whole = [length(items.rows), heads, head_dim];
    let parts = [length(items.items), length(shape.kv_heads), ITEM_ROWS, head_dim];
    let peaks = [parts[0], parts[1], ITEM_ROWS, 2];
    let done = (&[1][..], Dtype::Uint32);
    let outputs: &[_] = if items.parts {
        &[(&parts[..], Dtype::Float32), (&peaks[..], Dtype::Float32), done]
    } else {
        &[(&whole[..], dtype), done]
    };
    let grid = [items.items as u32, shape.kv_heads as u32, 1];
    let launch = Launch { grid, block: [32 * WARPS as u32, 1, 1], fill: None };
    let made = kernels.launch(&name, instance, (&inputs, outputs), launch)?;
    match made.as_slice() {
        [out, done] => Ok([out.clone(), done.clone()]),
        [parts, peaks, done] => {
            let out = combine(kernels, rule, [parts, peaks, items.plan], sinks.as_ref(), (&whole, dtype))?;
            Ok([out, done.clone()])
        }
        _ => Err(defect("attention returns two or three arrays")),
    }
}

fn combine(
    kernels: &Kernels,
    rule: AttentionRule<'_>,
    parts: [&Array; 3],
    sinks: Option<&Array>,
    (whole, dtype): (&[i32; 3], Dtype),
) -> Result<Array> {
    let shape = rule.shape;
    let name = name("attend_combine", rule, dtype, true);
    let inputs: Vec<&Array> = parts.into_iter().chain(sinks).collect();
    let instance = || Instance {
        name: name.clone(),
        inputs: &["parts", "peaks", "plan", "sinks"][..inputs.len()],
        outputs: &["out"],
        dtype,
        shared_bytes: 0,
        body: format!(
            "mlxcel::combine<T, {}, {}, {}>(parts, reinterpret_cast<const float2*>(peaks), \
             reinterpret_cast<const mlxcel::AttendRow*>(plan + 8 * parts_shape[0]), {}, out);",
            shape.head_dim,
            shape.heads / shape.kv_heads,
            shape.kv_heads,
            sinks_argument(rule),
        ),
    };
    let grid = [shape.heads.div_ceil(WARPS) as u32, whole[0] as u32, 1];
    let launch = Launch { grid, block: [32 * WARPS as u32, 1, 1], fill: None };
    kernels.launch_one(&name, instance, (&inputs, (whole, dtype)), launch)
}

/// Writes rows of keys and values, `[tokens, kv_heads, head_dim]`, to the pool's rows `slots`, i32 `[tokens]`; the number
/// that says so.
pub(crate) fn put_rows(
    kernels: &Kernels,
    [key, value]: [&Array; 2],
    slots: &Array,
    pool: PoolArrays<'_>,
) -> Result<Array> {
    let dtype = key.dtype();
    let name = format!("put_rows_{}", tag(dtype));
    let instance = || {
        Instance {
        name: name.clone(),
        inputs: &["key", "value", "slots", "pool_keys", "pool_values", "after"],
        outputs: &["done"],
        dtype,
        shared_bytes: 0,
        body: "if (blockIdx.x == 0 && threadIdx.x == 0) *done = *after;\n\
               mlxcel::put_rows<T>(key, value, slots, const_cast<T*>(pool_keys), const_cast<T*>(pool_values), \
               key_shape[1] * key_shape[2]);"
            .to_owned(),
    }
    };
    let inputs = [key, value, slots, pool.sides[0], pool.sides[1], pool.after];
    let launch = Launch::linear(slots.size(), 128);
    kernels.launch_one(&name, instance, (&inputs, (&[1], Dtype::Uint32)), launch)
}

const INPUTS: [&str; 8] = ["query", "key", "value", "pool_keys", "pool_values", "plan", "after", "sinks"];

fn name(kernel: &str, rule: AttentionRule<'_>, dtype: Dtype, parts: bool) -> String {
    let shape = rule.shape;
    format!(
        "{kernel}_{}_{}_{}_{}_{:08x}_{:08x}_{}_{}{}",
        tag(dtype),
        shape.head_dim,
        shape.heads,
        shape.kv_heads,
        shape.scale.to_bits(),
        shape.soft_cap.unwrap_or_default().to_bits(),
        shape.window.unwrap_or_default(),
        u8::from(rule.sinks.is_some()),
        u8::from(parts),
    )
}

fn body(rule: AttentionRule<'_>, parts: bool) -> String {
    let shape = rule.shape;
    let outputs =
        if parts { "nullptr, parts, reinterpret_cast<float2*>(peaks)" } else { "out, nullptr, nullptr" };
    // No position comes near it.
    let everything = 1 << 30;
    format!(
        "if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *done = *after;\n\
         const mlxcel::AttendRule rule = {{{}, {}, {}}};\n\
         mlxcel::attend<T, {}, {}, {}, {parts}>(query, key, value, const_cast<T*>(pool_keys), \
         const_cast<T*>(pool_values), plan, {}, {outputs}, rule);",
        float(shape.scale),
        float(shape.soft_cap.unwrap_or_default()),
        shape.window.unwrap_or(everything).min(everything),
        shape.head_dim,
        shape.heads / shape.kv_heads,
        shape.kv_heads,
        sinks_argument(rule),
    )
}

fn sinks_argument(rule: AttentionRule<'_>) -> &'static str {
    if rule.sinks.is_some() { "sinks" } else { "static_cast<const float*>(nullptr)" }
}
